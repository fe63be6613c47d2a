"""Decode UTF-8 with errors that name the file and byte; detect and refuse other encodings and binary files."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from typing import BinaryIO, Literal

from luthier.data.binaries import refuse_binary
from luthier.errors import LuthierError, setting

Invalid = Literal["error", "replace"]

BLOCK = 1 << 20  # bytes per read, and about the characters of a piece
FEW = 4  # NULs tolerated in a text; they are dropped
HEAD = 4096  # bytes examined to tell text from binary data
SURROGATE = re.compile(r"[\ud800-\udfff]")
UNPRINTED = bytes({*range(32)} - set(b"\t\n\v\f\r\x1b"))  # control characters that are rare in text


def decoded(file: BinaryIO, name: str, invalid: Invalid) -> Iterator[str]:
    """Decode a file in blocks with normalized line ends; characters and line ends split between blocks are joined.

    Raises LuthierError for invalid UTF-8, and always for UTF-16, UTF-32 and binary files.
    """
    utf8 = codecs.getincrementaldecoder("utf-8")("strict" if invalid == "error" else "replace")
    decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
    offset = 0
    while True:
        block = file.read(BLOCK)
        if offset == 0:
            refuse_binary(block, name)
            refuse_wide(block[:HEAD], name)
        waiting = len(utf8.getstate()[0])
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            head = block[:HEAD]
            if len(head) - len(head.translate(None, UNPRINTED)) > len(head) / 50:
                raise LuthierError(f"{name}: this is not text but binary data of a kind that is not known") from None
            raise not_utf8(name, offset - waiting + error.start, error.object[error.start]) from None
        yield text
        if not block:
            return
        offset += len(block)


def refuse_wide(head: bytes, name: str) -> None:
    """Raise LuthierError for UTF-16 or UTF-32 text, which could decode as wrong UTF-8."""
    mark = next((code for code, mark in MARKS.items() if head.startswith(mark)), None)
    nuls = head.count(0)
    if mark is None and nuls <= len(head) / 10:
        return
    if mark is None:
        at = [head[place::4].count(0) * 4 > len(head) * 0.6 for place in range(4)]  # positions that are mostly NUL
        found = {(True, False) * 2: "UTF-16BE", (False, True) * 2: "UTF-16LE"}
        found |= {(False, True, True, True): "UTF-32LE", (True, True, True, False): "UTF-32BE"}
        code = found.get((at[0], at[1], at[2], at[3]))
        if code is None and nuls < FEW:
            return
        if code is None:
            raise LuthierError(f"{name}: {nuls:,} of the first {len(head):,} bytes are NUL: this is not text")
        said = f"{code} without its byte order mark"
    else:
        code = said = mark
    raise LuthierError(f"{name}: this is {said}: convert it to UTF-8 (iconv -f {code} -t UTF-8 FILE > NEW)")


MARKS = {  # UTF-32's begins with UTF-16's
    "UTF-32": codecs.BOM_UTF32_LE,
    "UTF-16": codecs.BOM_UTF16_LE,
    "UTF-16BE": codecs.BOM_UTF16_BE,
    "UTF-32BE": codecs.BOM_UTF32_BE,
}


def not_utf8(name: str, offset: int, byte: int) -> LuthierError:
    """The error for a byte that is not valid UTF-8 at this offset."""
    return LuthierError(
        f"{name}: byte {offset:,} (0x{byte:02x}) is not UTF-8; convert this text to UTF-8, or read such "
        f"bytes as U+FFFD with {setting('invalid', 'replace')}"
    )


def decode(data: bytes, name: str, offset: int, invalid: Invalid) -> str:
    """Decode a complete text; `offset` is the position of its bytes in the file."""
    try:
        return data.decode("utf-8", "strict" if invalid == "error" else "replace")
    except UnicodeDecodeError as error:
        raise not_utf8(name, offset + error.start, data[error.start]) from None


def without_surrogates(text: str, where: str, invalid: Invalid) -> str:
    """Replace or refuse lone surrogates, which JSON can escape but UTF-8 cannot encode and tokenizers reject."""
    if invalid == "error" and (half := SURROGATE.search(text)):
        raise LuthierError(
            f"{where}: character {half.start():,} (\\u{ord(half[0]):04x}) is half of a surrogate pair; "
            f"mend it, or read it as U+FFFD with {setting('invalid', 'replace')}"
        )
    return SURROGATE.sub("\ufffd", text)
