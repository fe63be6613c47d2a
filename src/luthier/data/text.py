"""Reading text: files of many kinds become clean documents, piece by piece, so that text larger than memory streams.

A document is one .txt or .md file, one line of a .jsonl file, or one row of a .parquet file; any of them may be
compressed with gzip. All are cleaned by the rules of `luthier.tokenizers.core.cleaning`.
"""

from __future__ import annotations

import codecs
import difflib
import glob
import gzip
import io
import json
import os
import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, cast

from luthier.errors import LuthierError, UsageError
from luthier.tokenizers.core.cleaning import MARK, Normalisation, clean, without_control

Invalid = Literal["error", "replace"]

SUFFIXES = (".txt", ".md", ".jsonl", ".parquet")  # what a folder is searched for, each also with .gz after it
BLOCK = 1 << 20  # bytes read at once, and about the characters of a piece
LONGEST_LINE = 1 << 28  # bytes of one .jsonl line: a hostile file must not fill the memory
SURROGATE = re.compile(r"[\ud800-\udfff]")


class Piece(NamedTuple):
    """A run of a document's text. A document's pieces follow one another, and `ends` marks the last."""

    text: str
    ends: bool


def read_documents(
    paths: str | Path | Iterable[str | Path],
    *,
    field: str = "text",
    normalisation: Normalisation = "NFC",
    invalid: Invalid = "error",
) -> Iterator[str]:
    """The clean documents of files, folders and globs, each as one string. See `read_pieces` for the arguments."""
    return join(read_pieces(paths, field=field, normalisation=normalisation, invalid=invalid))


def join(pieces: Iterable[Piece]) -> Iterator[str]:
    """Whole documents from their pieces."""
    parts: list[str] = []
    for piece in pieces:
        parts.append(piece.text)
        if piece.ends:
            yield "".join(parts)
            parts.clear()


def read_pieces(
    paths: str | Path | Iterable[str | Path],
    *,
    field: str = "text",
    normalisation: Normalisation = "NFC",
    invalid: Invalid = "error",
) -> Iterator[Piece]:
    """The clean documents of files, folders and globs, in pieces of about a million characters.

    Documents without a character are left out. The pieces of a document joined are the same as the document cleaned
    whole: none is cut where normalisation or a line end would see both sides.

    `paths` are files, folders (searched for `SUFFIXES`) or globs, read in the order given. `field` is the field of a
    .jsonl line, or the column of a .parquet file, that holds the text. `invalid` says what to do with bytes that are
    not UTF-8: "error" names the file and the byte, "replace" reads them as U+FFFD.

    Raises LuthierError for a path that is not there, a file that cannot be read, and text that is not UTF-8.
    """
    for path in find_files(paths):
        yield from read_file(path, field=field, normalisation=normalisation, invalid=invalid)


def find_files(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """The files that paths name: a folder gives all it holds of `SUFFIXES`, a glob what it matches; sorted, each once.

    A file that is named is taken whatever its suffix, and read as plain text when the suffix is not known.
    """
    found: dict[Path, None] = {}
    for path in [paths] if isinstance(paths, str | Path) else paths:
        found.update(dict.fromkeys(_find(Path(path))))
    if not found:
        raise UsageError("no text is named: give a file, a folder or a glob")
    return list(found)


def _find(path: Path) -> list[Path]:
    if path.is_dir():
        files = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
        files = sorted(file for file in files if _kind(file) and not _hidden(file.relative_to(path)))
        if not files:
            raise LuthierError(f"{path}: this folder holds no text ({', '.join(SUFFIXES)}, or these with .gz)")
        return files
    if path.exists():
        return [path]
    if glob.has_magic(str(path)):
        files = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207 (may be absolute)
        files = [file for file in files if file.is_file()]
        if not files:
            raise LuthierError(f"{path}: no file matches")
        return files
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=1)
    hint = f"; did you mean '{path.with_name(near[0])}'?" if near else ""
    raise LuthierError(f"{path}: no such file or folder{hint}")


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _kind(path: Path) -> str | None:
    """The suffix that says how to read a file, or None for one that is not known."""
    name = path.name.lower().removesuffix(".gz")
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def read_file(path: Path, *, field: str, normalisation: Normalisation, invalid: Invalid) -> Iterator[Piece]:
    """The clean documents of one file. See `read_pieces`."""
    kind = _kind(path)
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as opened:
            file = cast(BinaryIO, opened)
            if kind == ".jsonl":
                yield from _whole(_json_lines(file, str(path), field, invalid), normalisation)
            elif kind == ".parquet":
                yield from _whole(_parquet_rows(file, str(path), field, invalid), normalisation)
            else:
                yield from read_stream(file, str(path), normalisation=normalisation, invalid=invalid)
    except (OSError, EOFError, zlib.error) as error:  # a file cut short or damaged inside gzip raises any of these
        raise LuthierError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def read_stream(file: BinaryIO, name: str, *, normalisation: Normalisation, invalid: Invalid) -> Iterator[Piece]:
    """One document from a stream of UTF-8 bytes; `name` is what an error calls it."""
    held: str | None = None
    for text in _normalised(_decoded(file, name, invalid), normalisation):
        if held is not None:
            yield Piece(held, False)
        held = text
    if held is not None:
        yield Piece(held, True)


def _whole(documents: Iterable[str], normalisation: Normalisation) -> Iterator[Piece]:
    for document in documents:
        if text := clean(document, normalisation):
            yield Piece(text, True)


def _decoded(file: BinaryIO, name: str, invalid: Invalid) -> Iterator[str]:
    """Blocks of text with their line ends unified; a character or a line end cut by a block's end is put together."""
    utf8 = codecs.getincrementaldecoder("utf-8")("strict" if invalid == "error" else "replace")
    decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
    offset = 0
    while True:
        block = file.read(BLOCK)
        waiting = len(utf8.getstate()[0])
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise _not_utf8(name, offset - waiting + error.start, error.object[error.start]) from None
        yield text
        if not block:
            return
        offset += len(block)


def _not_utf8(name: str, offset: int, byte: int) -> LuthierError:
    kind = "UTF-16 text" if offset == 0 and byte in (0xFE, 0xFF) else "text"
    return LuthierError(
        f"{name}: byte {offset:,} (0x{byte:02x}) is not UTF-8; convert this {kind} to UTF-8, "
        "or set invalid to 'replace' to read such bytes as U+FFFD"
    )


def _normalised(blocks: Iterable[str], normalisation: Normalisation) -> Iterator[str]:
    """Pieces without control characters, normalised so that joined they equal the whole text normalised.

    A cut is safe before a character that never combines with what stands before it. Of the many that do not, ASCII and
    the common Chinese characters are easy to know, and every real text has them often.
    """
    held, begun = "", False
    for block in blocks:
        seen = max(len(held), 1)
        held += without_control(block) if begun else without_control(block).lstrip(MARK)
        begun = begun or bool(held)
        if len(held) < BLOCK:
            continue
        cut = held.rfind("\n", seen) + 1 or _last_safe(held, seen)
        if cut:
            yield held[:cut] if normalisation == "none" else unicodedata.normalize(normalisation, held[:cut])
            held = held[cut:]
    if held:
        yield held if normalisation == "none" else unicodedata.normalize(normalisation, held)


def _last_safe(text: str, start: int) -> int:
    for i in range(len(text) - 1, start - 1, -1):
        if text[i] < "\x80" or "\u4e00" <= text[i] <= "\u9fff":
            return i
    return 0


def _json_lines(file: BinaryIO, name: str, field: str, invalid: Invalid) -> Iterator[str]:
    offset = 0
    for number in count(1):
        line = file.readline(LONGEST_LINE)
        if not line:
            return
        where = f"{name}, line {number:,}"
        if len(line) == LONGEST_LINE:
            raise LuthierError(f"{where}: longer than {LONGEST_LINE:,} bytes; is this one JSON object a line?")
        try:
            record = json.loads(_text(line, name, offset, invalid).removeprefix("\ufeff").strip() or "null")
        except (json.JSONDecodeError, RecursionError) as error:
            raise LuthierError(f"{where}: not JSON: {error}") from None
        offset += len(line)
        if record is None:  # an empty line
            continue
        if not isinstance(record, dict) or not isinstance(record.get(field), str):
            has = f"it has {', '.join(map(repr, record))}" if isinstance(record, dict) else "it is not an object"
            raise LuthierError(f"{where}: no text in the field '{field}': {has}; name the field that holds the text")
        yield _without_surrogates(record[field], where, invalid)


def need_pyarrow(name: str) -> None:
    """Raise LuthierError if a .parquet file could not be read here."""
    if find_spec("pyarrow") is None:
        raise LuthierError(f"{name}: reading .parquet needs pyarrow: pip install 'luthier[hub]'")


def _parquet_rows(file: BinaryIO, name: str, field: str, invalid: Invalid) -> Iterator[str]:
    need_pyarrow(name)
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        table = pq.ParquetFile(file)
        columns: Sequence[str] = table.schema_arrow.names
        if field not in columns:
            raise LuthierError(f"{name}: no column '{field}': it has {', '.join(columns)}; name the one with the text")
        kind = table.schema_arrow.field(field).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise LuthierError(f"{name}: the column '{field}' holds {kind}, not text")
        for batch in table.iter_batches(batch_size=1024, columns=[field]):
            for value in batch.column(0).cast(pa.large_binary()).to_pylist():  # as bytes: pyarrow trusts the UTF-8
                row += 1
                if value is not None:
                    yield _text(value, f"{name}, row {row:,}", 0, invalid)
    except (pa.ArrowException, OSError) as error:
        raise LuthierError(f"{name}: not a sound .parquet file: {error}") from error


def _text(data: bytes, name: str, offset: int, invalid: Invalid) -> str:
    try:
        return data.decode("utf-8", "strict" if invalid == "error" else "replace")
    except UnicodeDecodeError as error:
        raise _not_utf8(name, offset + error.start, data[error.start]) from None


def _without_surrogates(text: str, where: str, invalid: Invalid) -> str:
    """JSON can escape half a character, which no UTF-8 text can hold and every tokenizer would choke on."""
    if invalid == "error" and (half := SURROGATE.search(text)):
        raise LuthierError(
            f"{where}: character {half.start():,} (\\u{ord(half[0]):04x}) is half of a surrogate pair; "
            "mend it, or set invalid to 'replace' to read it as U+FFFD"
        )
    return SURROGATE.sub("\ufffd", text)
