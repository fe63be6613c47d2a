"""Tokens as text that can be seen: bytes that are no characters, control characters, and characters without a shape."""

from __future__ import annotations

import unicodedata

LONGEST = 40  # characters of a token: a vocabulary may hold whole lines
PICTURES = {"\n": "↵", "\t": "⇥"}  # fonts have these; few have Unicode's own pictures of the others
UNSEEN = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}  # Unicode's categories of what has no shape, or turns the text


def shown(piece: bytes) -> str:
    r"""The text of a token's bytes. Bytes that are no UTF-8 are "\xe9"; what cannot be seen has a code."""
    text = piece.decode("utf-8", "backslashreplace")
    if len(text) > LONGEST:
        text = text[: LONGEST - 1] + "…"
    if text and unicodedata.category(text[0]).startswith("M"):
        text = "◌" + text  # an accent would sit on the token before
    return "".join(map(_seen, text))


def _seen(character: str) -> str:
    if unicodedata.category(character) not in UNSEEN:
        return character
    code = ord(character)
    return PICTURES.get(character, f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}")
