"""Make untrusted text printable: no control sequences, no invisible characters.

A name or a model's text may hold escape codes (clear the screen, retitle the window, answer for the person),
overrides of the writing direction (CVE-2021-42574), or, as file names and arguments do, bytes that are no text.
"""

from __future__ import annotations

import re
import sys
from typing import TextIO

LONGEST_WORD = 300  # characters of a message's word: a path may be that long
HEAD, TAIL = 200, 60  # characters of a longer word that are kept
LONGEST_MESSAGE = 4000

# C0 and DEL as Unicode's control pictures; newline and tab are kept
_SIGNS = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"} | {0x7F: "\u2421"}
_NUMBERED = [
    *range(0x80, 0xA0),  # C1: 0x9B begins an escape code as ESC [ does
    0x2028, 0x2029,  # line breaks in some terminals
    *range(0x202A, 0x202F), *range(0x2066, 0x206A),  # change the text direction
]  # fmt: skip
_SIGNS |= {code: f"<U+{code:04X}>" for code in _NUMBERED}
_SIGNS |= {code: f"<U+{code:04X}>" for code in range(0xD800, 0xE000)}
_SIGNS |= {0xDC00 + byte: f"\\x{byte:02x}" for byte in range(0x80, 0x100)}  # PEP 383: a byte that is not UTF-8


def printable(text: str) -> str:
    """Replace control, invisible and unencodable characters by visible ones. Line breaks are kept."""
    return text if text.isascii() and text.isprintable() else text.translate(_SIGNS)


def is_printable(text: str) -> bool:
    """Whether `one_line` would leave the text unchanged."""
    return one_line(text) == text


def one_line(text: str) -> str:
    """Like `printable`, but on one line: line breaks are replaced too."""
    return printable(text).replace("\n", "\u240a").replace("\t", " ")


def shortened(text: str) -> str:
    """Shorten very long words and very long messages in the middle."""
    text = re.sub(rf"\S{{{LONGEST_WORD + 1},}}", lambda word: _cut(word.group(), HEAD, TAIL), text)
    return text if len(text) <= LONGEST_MESSAGE else _cut(text, LONGEST_MESSAGE - 500, 400)


def message(text: str) -> str:
    """Prepare a message: printable, on one line, shortened."""
    return shortened(one_line(text.strip("\n")))


def encodable(text: str, stream: TextIO) -> str:
    """Replace characters that a stream's encoding lacks by "?"."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        errors = getattr(stream, "errors", None) or "strict"
        if errors in ("strict", "surrogateescape", "surrogatepass"):  # otherwise the user has chosen an error handler
            errors = "backslashreplace" if stream is sys.__stderr__ else "replace"
        return text.encode(encoding, errors).decode(encoding)
    except LookupError:
        return text
    return text


def _cut(text: str, head: int, tail: int) -> str:
    return f"{text[:head]}[... {len(text) - head - tail:,} characters ...]{text[-tail:]}"
