"""Printable text of tokens: escapes for invalid UTF-8, control characters and invisible characters."""

from __future__ import annotations

import unicodedata

LONGEST = 40  # characters of a token: a vocabulary may contain entire lines
PICTURES = {"\n": "↵", "\t": "⇥"}  # fonts have these; few have Unicode's control pictures
UNSEEN = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}  # Unicode categories: invisible, or changing the text direction


def shown(piece: bytes) -> str:
    r"""Printable text of a token's bytes. Invalid UTF-8 becomes "\xe9"; invisible characters become their code."""
    text = piece.decode("utf-8", "backslashreplace")
    if len(text) > LONGEST:
        text = text[: LONGEST - 1] + "…"
    if text and unicodedata.category(text[0]).startswith("M"):
        text = "◌" + text  # a combining accent would attach to the token before
    return "".join(map(_seen, text))


def _seen(character: str) -> str:
    if unicodedata.category(character) not in UNSEEN:
        return character
    code = ord(character)
    return PICTURES.get(character, f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}")
