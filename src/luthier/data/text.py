"""Read files of many formats as clean documents, in pieces, so that text larger than memory can be streamed.

A document is one .txt or .md file, one line of a .jsonl file, one value of a .json array, or one row of a .csv, .tsv or
.parquet file; any of them may be compressed (gzip, bzip2, xz, zstandard). A separator, if given, splits a file into
several documents. All are cleaned by the rules of `luthier.tokenizers.core.cleaning`.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from luthier.data import decoding
from luthier.data.binaries import opened
from luthier.data.decoding import Invalid, decoded
from luthier.data.finding import Tell, kind_of
from luthier.data.records import csv_rows, json_lines, json_values, parquet_rows
from luthier.tokenizers.core.cleaning import MARK, Normalization, clean, without_control


class Piece(NamedTuple):
    """Consecutive text of a document. A document's pieces follow one another, and `ends` marks the last."""

    text: str
    ends: bool


@dataclass(frozen=True)
class Reading:
    """Options for reading text files."""

    field: str = "text"
    """Field of a .json or .jsonl object, or column of a .csv, .tsv or .parquet file, that holds the text."""
    normalization: Normalization = "NFC"
    """Unicode normalization form of the text, and of everything that its tokenizer will encode."""
    invalid: Invalid = "error"
    """Bytes that are not UTF-8: stop with an error, or replace them by U+FFFD."""


def join(pieces: Iterable[Piece]) -> Iterator[str]:
    """Join pieces into complete documents."""
    parts: list[str] = []
    for piece in pieces:
        parts.append(piece.text)
        if piece.ends:
            yield "".join(parts)
            parts.clear()


def read_file(path: Path, how: Reading, tell: Tell = lambda text: None) -> Iterator[Piece]:
    """Clean documents of one file, in pieces of about a million characters. `tell`: called with what was skipped.

    Empty documents are skipped. Joining a document's pieces gives the same as cleaning it in one piece: no cut is made
    where normalization or a line end would span it.

    Raises LuthierError for a file that cannot be read, and for text that is not UTF-8.
    """
    kind, name = kind_of(path), str(path)
    nulls: Counter[str] = Counter()
    with opened(path) as file:
        if kind == ".jsonl":
            documents = json_lines(file, name, how.field, how.invalid, nulls)
        elif kind == ".json":
            documents = json_values(file, name, how.field, how.invalid, nulls)
        elif kind in (".csv", ".tsv"):
            documents = csv_rows(file, name, how.field, how.invalid, tabs=kind == ".tsv")
        elif kind == ".parquet":
            documents = parquet_rows(file, name, how.field, how.invalid, nulls)
        else:
            yield from read_stream(file, name, how)
            return
        for document in documents:
            if text := clean(document, how.normalization):
                yield Piece(text, True)
    if nulls:
        tell(f"{name}: left out where '{how.field}' is null: {nulls[name]:,}")


def read_stream(file: BinaryIO, name: str, how: Reading) -> Iterator[Piece]:
    """One document from a stream of UTF-8 bytes; `name` is used in errors."""
    held: str | None = None
    for text in _normalized(decoded(file, name, how.invalid), how.normalization):
        if held is not None:
            yield Piece(held, False)
        held = text
    if held is not None:
        yield Piece(held, True)


def _normalized(blocks: Iterable[str], normalization: Normalization) -> Iterator[str]:
    """Pieces without control characters, normalized so that joined they equal the complete text normalized.

    A cut is safe before a character that never combines with a preceding one. ASCII and the common Chinese characters
    are such, easy to recognize, and frequent in any text.
    """
    held, begun = "", False
    for block in blocks:
        seen = max(len(held), 1)
        held += without_control(block) if begun else without_control(block).lstrip(MARK)
        begun = begun or bool(held)
        if len(held) < decoding.BLOCK:
            continue
        cut = held.rfind("\n", seen) + 1 or _last_safe(held, seen)
        if cut:
            yield held[:cut] if normalization == "none" else unicodedata.normalize(normalization, held[:cut])
            held = held[cut:]
    if held:
        yield held if normalization == "none" else unicodedata.normalize(normalization, held)


def _last_safe(text: str, start: int) -> int:
    for i in range(len(text) - 1, start - 1, -1):
        if text[i] < "\x80" or "\u4e00" <= text[i] <= "\u9fff":
            return i
    return 0
