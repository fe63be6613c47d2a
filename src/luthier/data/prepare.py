"""Tokenize text into shards: measure, split, cut, encode on all cores, and write atomically.

The text is read twice, once to count it and once to encode it, and never held in memory. Everything is written into a
hidden folder beside the target, which is renamed once all data is on disk.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from luthier.data.chunks import Chunk, Cutter
from luthier.data.encoding import Encoder, Encoding, processes_for
from luthier.data.shards import FORMAT, INDEX, SHARD_TOKENS, Index, ShardWriter, dtype_for, read_index
from luthier.data.splits import SPLITS, Fractions, Size, Span, measure, resolve, spans
from luthier.data.text import Piece
from luthier.errors import LuthierError, UsageError
from luthier.files.atomic_folder import is_free, replacing
from luthier.files.sealed_json import sealed
from luthier.terminal.progress import progress

BATCH = 1 << 20  # characters encoded at once: 16 chunks


class Tokenizer(Encoder, Protocol):
    """The part of `luthier.tokenizers.core.tokenizer.Tokenizer` used here."""

    @property
    def vocab_size(self) -> int:
        """The highest id plus 1."""
        ...

    @property
    def eos_id(self) -> int | None:
        """The end-of-text id."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identifies the tokenizer."""
        ...

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files."""
        ...


class Job(NamedTuple):
    """A chunk to encode, and its destination."""

    split: str
    chunk: Chunk
    starts: bool  # the split's part of a document starts here
    whole: bool  # the document ends here


def prepare(
    documents: Iterable[str | Piece],
    tokenizer: Tokenizer,
    out: str | Path,
    *,
    fractions: Fractions | None = None,
    validation: Iterable[str | Piece] | None = None,
    settings: dict[str, Any] | None = None,
    shard_tokens: int = SHARD_TOKENS,
) -> Index:
    """Tokenize documents into the folder `out`, which must be new or empty.

    `documents` is read twice, so it is a list, a `sources.Texts`, or another iterable that restarts each time; a string
    is one document. If there are several documents and the tokenizer has an end-of-text id, that id ends each.
    `validation` is a separate text for the validation split, instead of a fraction of the documents. `settings` are
    stored in the index, beside how the text was split.

    Raises LuthierError when there is no text, when a split would be empty, and when the folder cannot be written; then,
    and when it is interrupted, nothing is left behind.
    """
    out, fractions = Path(out), fractions or Fractions()
    if iter(documents) is documents or (validation is not None and iter(validation) is validation):
        raise UsageError("the documents are read twice: give a list or a Texts, not a generator")
    if not is_free(out):
        raise LuthierError(f"{out}: there is something here already; delete it or name another folder")
    if validation is not None and fractions.validation:
        raise UsageError(
            f"a text to validate on is given, so no fraction ({fractions.validation}) is held out for that"
        )
    with progress("reading characters", None) as advance:
        size = measure(_watched(_pieces(documents), advance))
        held_out = measure(_watched(_pieces(validation or ()), advance))
    if not size.characters:
        raise LuthierError("there is no text in what was given")
    if validation is not None and not held_out.characters:
        raise LuthierError("there is no text in what was given for validation")
    with replacing(out, stale=(), last=INDEX) as part:
        parts = spans(_pieces(documents), fractions, size)
        wanted = fractions.wanted
        if validation is not None:
            parts = chain(parts, (Span("validation", text, ends, ends) for text, ends in _pieces(validation)))
            wanted = tuple(split for split in SPLITS if split in {*wanted, "validation"})
        with progress("encoding", size.characters + held_out.characters) as advance:
            record = _write(parts, tokenizer, part, wanted, size, shard_tokens, advance)
        tokenizer.save(part)
        record["settings"] = {**asdict(fractions), **(settings or {}), "split_by": resolve(fractions, size)}
        (part / INDEX).write_text(json.dumps(sealed(record), indent=2) + "\n", encoding="utf-8")
    return read_index(out)


def _pieces(documents: Iterable[str | Piece]) -> Iterator[Piece]:
    pieces = (item if isinstance(item, Piece) else Piece(item, True) for item in documents)
    return (piece for piece in pieces if piece.text)


def _watched(pieces: Iterable[Piece], advance: Callable[[int], None]) -> Iterator[Piece]:
    for piece in pieces:
        yield piece
        advance(len(piece.text))


def _write(
    parts: Iterable[Span],
    tokenizer: Tokenizer,
    folder: Path,
    wanted: Sequence[str],
    size: Size,
    shard_tokens: int,
    advance: Callable[[int], None],
) -> dict[str, Any]:
    """Encode and write all splits. Returns the index without its settings."""
    vocab_size = tokenizer.vocab_size
    dtype = dtype_for(vocab_size)
    end_of_text = tokenizer.eos_id if size.documents > 1 else None
    cutter = Cutter(tokenizer)
    with ExitStack() as files:
        encoding = files.enter_context(Encoding(tokenizer, processes_for(tokenizer, size.characters)))
        new = (ShardWriter(folder, split, dtype, vocab_size, shard_tokens) for split in wanted)
        writers = {writer.split: files.enter_context(writer) for writer in new}
        batches = _batches(_jobs(parts, cutter))
        for batch, rows in encoding.in_order(batches, _texts):
            for job, ids in zip(batch, cutter.without_before([job.chunk for job in batch], rows), strict=True):
                writer = writers[job.split]
                if job.starts:
                    writer.start_document()
                writer.write(ids)
                if job.whole and end_of_text is not None:
                    writer.write([end_of_text])
                writer.bytes += len(job.chunk.text.encode())
                advance(len(job.chunk.text))
        entries = {split: writer.finish() for split, writer in writers.items()}
    for split, entry in entries.items():
        if not entry["tokens"]:
            raise LuthierError(
                f"the {split} split is empty: {size.characters:,} characters are too few to be split so; "
                f"set the fraction for {split} to another value, or give more text"
            )
    return {
        "format": FORMAT,
        "dtype": dtype,
        "vocab_size": vocab_size,
        "end_of_text": end_of_text,
        "tokenizer": tokenizer.fingerprint,
        "splits": entries,
    }


def _jobs(parts: Iterable[Span], cutter: Cutter) -> Iterator[Job]:
    starts = True
    for span in parts:
        for chunk in cutter.push(span.text):
            yield Job(span.split, chunk, starts, whole=False)
            starts = False
        if span.ends:
            yield Job(span.split, cutter.finish(), starts, span.whole)
            starts = True


def _texts(jobs: Sequence[Job]) -> list[str]:
    return [job.chunk.before + job.chunk.text for job in jobs]


def _batches(jobs: Iterable[Job]) -> Iterator[Sequence[Job]]:
    batch: list[Job] = []
    characters = 0
    for job in jobs:
        batch.append(job)
        characters += len(job.chunk.text)
        if characters >= BATCH:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
