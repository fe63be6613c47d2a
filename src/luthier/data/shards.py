"""Token shards: token ids on disk, read through memory maps, with an index.

A prepared folder holds, for each split:

    train-00000.bin ...   ids, little-endian uint16 (vocabulary up to 65,536) or uint32, in the order of the text
    train-documents.npy   where each document starts in the split, int64
    index.json            counts, sha256 of each shard, the tokenizer's fingerprint, the settings

and the tokenizer itself, so that nothing else is needed to train on it.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from luthier.data.digests import digests
from luthier.errors import LuthierError
from luthier.files.sealed_json import is_intact

INDEX = "index.json"
FORMAT = "luthier-tokens-1"
DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
SHARD_TOKENS = 100_000_000  # tokens per file: small enough to copy and verify, large enough to keep the files few


def dtype_for(vocab_size: int) -> str:
    """Name of the smallest dtype of `DTYPES` that holds the ids 0 to vocab_size - 1."""
    if vocab_size > 1 << 32:
        raise LuthierError(f"a vocabulary of {vocab_size:,} does not fit the 32 bits of an id")
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


class TokenShards:
    """The ids of one split as one sequence over all its files.

    `len(tokens)` counts ids, `tokens[a:b]` returns them as an array (across shard boundaries too), `documents` holds
    the start of each document, and `bytes` is the size of the text in UTF-8.
    """

    def __init__(
        self,
        shards: Sequence[NDArray[Any]],
        *,
        name: str = "text",
        bytes: int = 0,
        documents: NDArray[np.int64] | None = None,
        vocab_size: int | None = None,
        fingerprint: str | None = None,
    ) -> None:
        self.name = name
        self.bytes = bytes
        self.documents = np.zeros(1, np.int64) if documents is None else documents
        self.vocab_size = vocab_size
        self.fingerprint = fingerprint  # of the tokenizer that made the ids
        self._shards = [np.asarray(shard) for shard in shards]  # plain view: slicing a np.memmap costs ten times more
        self._starts = np.cumsum([0, *map(len, self._shards)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, where: slice) -> NDArray[Any]:
        """Ids of a slice with step 1: a view if they are in one shard, otherwise a copy."""
        start, stop, step = where.indices(len(self))
        if step != 1:
            raise ValueError("token shards are sliced with step 1")
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        parts = []
        for shard, offset in zip(self._shards[first:], self._starts[first:], strict=False):
            if offset >= stop:
                break
            parts.append(shard[max(start - offset, 0) : stop - offset])
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.zeros(0, self._shards[0].dtype if self._shards else np.uint16)

    def rows(self, starts: NDArray[np.int64], length: int) -> NDArray[Any]:
        """(N,) starts -> (N, length) ids in the shards' dtype: row i holds the `length` ids from starts[i] on."""
        shards = np.searchsorted(self._starts, starts, side="right") - 1
        places = starts - self._starts[shards]
        inside = starts + length <= self._starts[shards + 1]
        if len(starts) and inside.all() and (shards == shards[0]).all():
            taken: NDArray[Any] = self._windows(int(shards[0]), length)[places]
            return taken
        rows = np.empty((len(starts), length), self._shards[0].dtype)
        for row, start, shard, place, whole in zip(
            rows, starts.tolist(), shards.tolist(), places.tolist(), inside.tolist(), strict=True
        ):
            row[:] = self._shards[shard][place : place + length] if whole else self[start : start + length]
        return rows

    def _windows(self, shard: int, length: int) -> NDArray[Any]:
        """All windows of `length` ids of a shard as rows of a view, without copying."""
        ids = self._shards[shard]
        shape, strides = (len(ids) - length + 1, length), 2 * ids.strides
        return as_strided(ids, shape, strides, writeable=False)


class ShardWriter:
    """Writes one split into a folder, shard by shard. `finish` returns the split's entry of the index."""

    def __init__(self, folder: Path, split: str, dtype: str, vocab_size: int, shard_tokens: int = SHARD_TOKENS) -> None:
        self.folder, self.split, self.dtype = folder, split, DTYPES[dtype]
        self.vocab_size, self.shard_tokens = vocab_size, shard_tokens
        self.tokens = self.bytes = 0
        self.documents = array("q")
        self._shards: list[dict[str, Any]] = []
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self._room = 0
        self._starting = False

    def start_document(self) -> None:
        """Begin a document with the next ids. A document without ids is not counted."""
        self._starting = True

    def write(self, ids: Sequence[int] | NDArray[np.uint32]) -> None:
        """Append ids. Raises LuthierError for one outside the vocabulary: it could wrap around to another token."""
        values = np.asarray(ids)
        if len(values) and (values.min() < 0 or values.max() >= self.vocab_size):
            bad = values.max() if values.min() >= 0 else values.min()
            raise LuthierError(f"the tokenizer gave the id {bad:,}, outside its vocabulary of {self.vocab_size:,}")
        if self._starting and len(values):
            self.documents.append(self.tokens)
            self._starting = False
        data = values.astype(self.dtype)
        while len(data):
            if not self._room:
                self._next_shard()
            part, data = data[: self._room], data[self._room :]
            assert self._file is not None
            self._file.write(part.data)
            self._digest.update(part.data)
            self._room -= len(part)
            self.tokens += len(part)

    def finish(self) -> dict[str, Any]:
        """Write the remaining data, and return the split's entry of the index."""
        self._end_shard()
        path = _documents_path(self.folder, self.split)
        np.save(path, np.asarray(self.documents, np.int64), allow_pickle=False)
        return {
            "tokens": self.tokens,
            "bytes": self.bytes,
            "documents": len(self.documents),
            "documents_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "shards": self._shards,
        }

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_shard()

    def _next_shard(self) -> None:
        self._end_shard()
        self._file = (self.folder / f"{self.split}-{len(self._shards):05d}.bin").open("wb")
        self._digest, self._room = hashlib.sha256(), self.shard_tokens

    def _end_shard(self) -> None:
        if self._file is not None:
            self._file.close()
            entry = {"file": Path(self._file.name).name, "tokens": self.shard_tokens - self._room}
            self._shards.append({**entry, "sha256": self._digest.hexdigest()})
            self._file = None


@dataclass(frozen=True)
class Index:
    """Index of a prepared folder."""

    folder: Path
    dtype: str
    vocab_size: int
    end_of_text: int | None
    fingerprint: str
    settings: dict[str, Any]
    splits: dict[str, dict[str, Any]]


def read_index(folder: str | Path) -> Index:
    """Read a prepared folder's index.

    Raises LuthierError when the folder was not prepared, or its index is damaged.
    """
    folder = Path(folder)
    path = folder / INDEX
    try:
        record = json.loads(path.read_bytes())
        if record["format"] != FORMAT:
            raise LuthierError(f"{path}: made by another version ({record['format']!r}); prepare the text again")
        if not is_intact(record):
            raise LuthierError(f"{path}: damaged (its checksum is not that of its contents); prepare the text again")
        if record["dtype"] not in DTYPES:
            raise ValueError(f"dtype {record['dtype']!r}")
        return Index(
            folder,
            dtype=record["dtype"],
            vocab_size=int(record["vocab_size"]),
            end_of_text=record["end_of_text"],
            fingerprint=str(record["tokenizer"]),
            settings=dict(record["settings"]),
            splits=dict(record["splits"]),
        )
    except FileNotFoundError:
        raise LuthierError(
            f"{folder}: no {INDEX} here, so no prepared text; make one with 'luthier data prepare'"
        ) from None
    except OSError as error:
        raise LuthierError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise LuthierError(f"{path}: damaged ({error!r}); prepare the text again") from error


def open_tokens(folder: str | Path, split: str = "train", *, verify: bool = False) -> TokenShards:
    """Memory-map a split of a prepared folder. Data is read on access.

    `verify` reads all files of the folder first; see `check_files`.

    Raises LuthierError when a file is missing, truncated, or does not match the index.
    """
    index = read_index(folder)
    if verify:
        check_files(folder)
    if split not in index.splits:
        raise LuthierError(f"{folder}: no split '{split}' here, only {', '.join(index.splits)}")
    try:
        entry = index.splits[split]
        shards = [_map(index, shard["file"], shard["tokens"]) for shard in entry["shards"]]
        documents = _documents(index, split, entry)
        if sum(map(len, shards)) != entry["tokens"]:
            raise LuthierError(f"{folder}: the shards of '{split}' do not add up to its {entry['tokens']:,} tokens")
        return TokenShards(
            shards,
            name=split,
            bytes=int(entry["bytes"]),
            documents=documents,
            vocab_size=index.vocab_size,
            fingerprint=index.fingerprint,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LuthierError(f"{folder}: damaged index of '{split}' ({error!r}); prepare the text again") from error


def _map(index: Index, name: str, tokens: int) -> NDArray[Any]:
    path = index.folder / name
    if Path(name).name != name:  # an index from elsewhere must not reach outside its folder
        raise LuthierError(f"{index.folder}: the index names '{name}', which is not a file of this folder")
    dtype = DTYPES[index.dtype]
    size = path.stat().st_size if path.is_file() else None
    if size != tokens * dtype.itemsize or not tokens:
        found = "is missing" if size is None else f"has {size:,} bytes"
        raise LuthierError(
            f"{path}: {found}; the index says {tokens:,} tokens of {index.dtype}, {tokens * dtype.itemsize:,} bytes; "
            "prepare the text again"
        )
    return np.memmap(path, dtype, mode="r", shape=(tokens,))


def _documents_path(folder: Path, split: str) -> Path:
    return folder / f"{split}-documents.npy"


def _documents(index: Index, split: str, entry: dict[str, Any]) -> NDArray[np.int64]:
    path = _documents_path(index.folder, split)
    try:
        documents: NDArray[np.int64] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise LuthierError(f"{path}: cannot be read ({error}); prepare the text again") from error
    whole = documents.dtype == np.int64 and documents.shape == (entry["documents"],) and len(documents) > 0
    if not whole or documents[0] != 0 or documents[-1] >= entry["tokens"] or (np.diff(documents) <= 0).any():
        raise LuthierError(f"{path}: not the starts of {entry['documents']:,} documents; prepare the text again")
    return documents


def check_files(folder: str | Path) -> dict[str, int]:
    """Read every file of a prepared folder and compare it with the index. Returns the tokens of each split.

    Raises LuthierError for the first file that is not as it was written, and for an id beyond the vocabulary, which it
    names with the shard and the position.
    """
    index = read_index(folder)
    opened = {split: len(open_tokens(folder, split)) for split in index.splits}
    expected: dict[Path, str] = {}
    for split, entry in index.splits.items():
        expected |= {index.folder / shard["file"]: str(shard["sha256"]) for shard in entry["shards"]}
        if "documents_sha256" in entry:  # version 0.1 did not write it
            expected[_documents_path(index.folder, split)] = str(entry["documents_sha256"])
    dtype = DTYPES[index.dtype]

    def ids_are_known(path: Path, offset: int, block: bytes) -> None:
        if path.suffix != ".bin":
            return
        ids = np.frombuffer(block, dtype)
        if ids.max() >= index.vocab_size:
            place = int(np.argmax(ids >= index.vocab_size))
            raise LuthierError(
                f"{path}: the id at position {offset // dtype.itemsize + place:,} is {ids[place]:,}, outside the "
                f"vocabulary of {index.vocab_size:,}: the file is damaged; prepare the text again"
            )

    for path, digest in zip(expected, digests(list(expected), "checking the tokens", ids_are_known), strict=True):
        if digest != expected[path]:
            raise LuthierError(
                f"{path}: is not as it was written: its sha256 is {digest}, the index says {expected[path]}; "
                "prepare the text again"
            )
    return opened
