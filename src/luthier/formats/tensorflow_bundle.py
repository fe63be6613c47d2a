"""Read TensorFlow checkpoints ("bundles") without TensorFlow.

PREFIX.index is a table sorted by key, in LevelDB's format: the bundle's header under the empty key, and for each
variable the position of its data. PREFIX.data-00000-of-00001 holds the concatenated data. Both have CRC-32C checksums,
and all are verified: those of the index when it is opened, a variable's when it is read.

Sources: LevelDB's doc/table_format.md; TensorFlow's core/protobuf/tensor_bundle.proto and core/lib/hash/crc32c.h.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import numpy as np
import torch
from torch import Tensor

from luthier.errors import LuthierError
from luthier.files.protobuf_wire import WireReader
from luthier.files.protobuf_wire import fields as fields_of

MAGIC = bytes.fromhex("57fb808b247547db")
FOOTER = 48  # bytes: two block handles, padded to 40, and the magic number
TRAILER = 5  # bytes after a block: its compression type, and a checksum
MAX_INDEX = 4 * 2**20  # bytes; that of GPT-2's largest model has some 20,000
MAX_NAME = 1000  # bytes. Names are prefix-compressed: unbounded, few bytes could expand to long names
MAX_VARIABLES = 100_000
MAX_RANK = 8
MAX_SHARDS = 1000
DTYPES = {  # by their numbers in types.proto
    1: torch.float32,
    2: torch.float64,
    3: torch.int32,
    9: torch.int64,
    14: torch.bfloat16,
    19: torch.float16,
}


class Entry(NamedTuple):
    """Position of a variable's data. dtype: TensorFlow's number for it."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int  # bytes
    checksum: int


class TensorFlowBundle:
    """The variables of a checkpoint (a `weight_table.Checkpoint`). prefix: the files' path up to ".index"."""

    def __init__(self, prefix: Path) -> None:
        self.prefix, self.index = prefix, prefix.with_name(f"{prefix.name}.index")
        table = dict(read_table(self.index))
        try:
            self.n_shards = read_header(table.pop(b"", b""))
            self.entries = {key.decode(): read_entry(value) for key, value in table.items()}
            check_no_overlap(self.entries)
        except (ValueError, IndexError) as error:  # a truncated or invalid number or name
            raise LuthierError(f"{self.index} is not an index of a TensorFlow checkpoint: {error}") from None

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: entry.shape for name, entry in self.entries.items()}

    def tensor(self, name: str) -> Tensor:
        """Read a variable and verify its checksum. Not memory-mapped: verifying touches every byte anyway."""
        entry = self.entries[name]
        dtype = DTYPES.get(entry.dtype)
        if dtype is None:
            raise LuthierError(
                f"{self.index}: '{name}' has TensorFlow's type number {entry.dtype}, which is not supported"
            )
        data = self.prefix.with_name(f"{self.prefix.name}.data-{entry.shard:05}-of-{self.n_shards:05}")
        if not data.is_file():
            raise LuthierError(f"{data} is missing")
        end, size = entry.offset + entry.size, data.stat().st_size
        if entry.size != math.prod(entry.shape) * dtype.itemsize or end > size:
            raise LuthierError(
                f"{self.index}: '{name}' {entry.shape} is declared at bytes {entry.offset:,} to {end:,} of "
                f"{size:,}: the files are truncated or belong to different checkpoints"
            )
        content = np.fromfile(data, np.uint8, entry.size, offset=entry.offset)
        if mask_crc(google_crc32c.value(content)) != entry.checksum:
            raise LuthierError(f"{data}: the checksum of '{name}' is wrong: the file is damaged")
        return torch.from_numpy(content).view(dtype).view(entry.shape)


def mask_crc(checksum: int) -> int:
    """Mask a CRC as LevelDB does: the CRC of data that contains CRCs is problematic."""
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_table(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a table. Raises a LuthierError for one that is damaged, compressed or too large."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_INDEX + 1)
    except OSError as error:
        raise LuthierError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(content) > MAX_INDEX or len(content) < FOOTER or content[-len(MAGIC) :] != MAGIC:
        raise LuthierError(f"{path} is not an index of a TensorFlow checkpoint, or truncated")
    try:
        footer = WireReader(content[-FOOTER:])
        read_handle(footer)  # of the metaindex block
        end, last, n_variables = 0, b"", 0
        for _, handle in entries_of(block(content, read_handle(footer))):
            start, size = found = read_handle(WireReader(handle))
            if start < end:  # each block once: a table that referenced one block a million times would never end
                raise ValueError("its blocks are out of order")
            end = start + size
            for key, value in entries_of(block(content, found)):
                if n_variables and key <= last:
                    raise ValueError("its names are out of order")
                last, n_variables = key, n_variables + 1
                if n_variables > MAX_VARIABLES:
                    raise ValueError(f"it has more than {MAX_VARIABLES:,} variables")
                yield key, value
    except (ValueError, IndexError) as error:
        raise LuthierError(f"{path} is damaged: {error}") from None


def block(content: bytes, where: tuple[int, int]) -> bytes:
    """Read one block and verify its checksum."""
    start, size = where
    if start + size + TRAILER > len(content):
        raise ValueError("a block is past its end")
    compression = content[start + size]
    checksum = int.from_bytes(content[start + size + 1 : start + size + TRAILER], "little")
    if mask_crc(google_crc32c.value(content[start : start + size + 1])) != checksum:
        raise ValueError("a block has a wrong checksum")
    if compression:
        raise ValueError("its blocks are compressed, which TensorFlow's checkpoints never are")
    return content[start : start + size]


def entries_of(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block. Each key shares a prefix with the one before it."""
    n_restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (n_restarts + 1)
    if end < 0:
        raise ValueError("a block is smaller than it declares")
    fields, key = WireReader(block[:end]), b""
    while fields.at < end:
        shared, fresh, size = fields.varint(), fields.varint(), fields.varint()
        if shared > len(key) or shared + fresh > MAX_NAME:
            raise ValueError("a name shares more with the previous one than that has, or is too long")
        key = key[:shared] + fields.take(fresh)
        yield key, fields.take(size)


def read_handle(fields: WireReader) -> tuple[int, int]:
    """Read a block handle: offset and size in bytes."""
    return fields.varint(), fields.varint()


def read_header(message: bytes) -> int:
    """Number of data files, from a BundleHeaderProto."""
    fields = dict(fields_of(message))
    n_shards, big_endian = require_int(fields.get(1, 0)), require_int(fields.get(2, 0))
    if big_endian:
        raise ValueError("it was written on a big-endian machine")
    if not 1 <= n_shards <= MAX_SHARDS:
        raise ValueError(f"it has {n_shards} data files")
    return n_shards


def read_entry(message: bytes) -> Entry:
    """Parse a BundleEntryProto."""
    fields = dict(fields_of(message))
    if 7 in fields:
        raise ValueError("a variable is stored in slices, which is not supported")
    dtype, shard, offset, size = (require_int(fields.get(number, 0)) for number in (1, 3, 4, 5))
    checksum = int.from_bytes(require_bytes(fields.get(6, bytes(4))), "little")  # fixed-width
    shape = tuple(dimension(value) for number, value in fields_of(require_bytes(fields.get(2, b""))) if number == 2)
    if len(shape) > MAX_RANK:
        raise ValueError(f"a variable of {len(shape)} dimensions")
    return Entry(dtype, shape, shard, offset, size, checksum)


def check_no_overlap(entries: Mapping[str, Entry]) -> None:
    """Check that variables do not share bytes: a file that referenced the same ones repeatedly could exhaust memory."""
    ends: dict[int, int] = {}
    for entry in sorted(entries.values(), key=lambda entry: (entry.shard, entry.offset)):
        if entry.size and entry.offset < ends.get(entry.shard, 0):
            raise ValueError("two variables share bytes")
        ends[entry.shard] = max(ends.get(entry.shard, 0), entry.offset + entry.size)


def dimension(message: int | bytes) -> int:
    """Parse a dimension of a TensorShapeProto."""
    size = require_int(dict(fields_of(require_bytes(message))).get(1, 0))
    if size >= 2**40:
        raise ValueError("a variable has a dimension that is negative or too large")
    return size


def require_int(value: int | bytes) -> int:
    """Require an integer field."""
    if isinstance(value, bytes):
        raise ValueError("expected an integer, found bytes")
    return value


def require_bytes(value: int | bytes) -> bytes:
    """Require a length-delimited field."""
    if isinstance(value, int):
        raise ValueError("expected a message, found an integer")
    return value
