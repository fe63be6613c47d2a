"""Printable text of tokens: escapes for invalid UTF-8, control characters and invisible characters."""

from __future__ import annotations

import unicodedata

MAX_LENGTH = 40  # characters of a token: a vocabulary may contain entire lines
SYMBOLS = {"\n": "↵", "\t": "⇥"}  # fonts have these; few have Unicode's control pictures
INVISIBLE = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}  # Unicode categories: invisible, or changing the text direction


def printable(piece: bytes) -> str:
    r"""Printable text of a token's bytes. Invalid UTF-8 becomes "\xe9"; invisible characters become their code."""
    text = piece.decode("utf-8", "backslashreplace")
    if len(text) > MAX_LENGTH:
        text = text[: MAX_LENGTH - 1] + "…"
    if text and unicodedata.category(text[0]).startswith("M"):
        text = "◌" + text  # a combining accent would attach to the token before
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if unicodedata.category(character) not in INVISIBLE:
        return character
    code = ord(character)
    return SYMBOLS.get(character, f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}")
