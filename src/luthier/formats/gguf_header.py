"""Header of a GGUF file: metadata, and the position of each tensor.

    "GGUF", version, number of tensors, number of metadata entries
    each entry: name, value type, value (a number, a string, or an array of either)
    each tensor: name, dimensions (fastest-varying first, the reverse of torch's), type, offset
    the tensors' data, from the next multiple of general.alignment

Numbers are little-endian. The file is untrusted: every count, length and offset is checked against the available bytes
before anything is allocated. (The `gguf` package's own reader trusts them.)
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from luthier.errors import LuthierError
from luthier.formats.weight_table import Shape

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_HEADER = 2**26  # bytes: the metadata of the largest vocabularies takes some 20 MB
MAX_ENTRIES = 2**16  # metadata entries, and tensors
MAX_NAME = 256  # characters; llama.cpp allows 63 for tensors
MAX_ITEMS = 2**22  # of all arrays together: tokens and merges of the largest vocabularies are some 1.3 million
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 2**16
NUMBERS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
STRING, ARRAY = 8, 9
LENGTH = struct.Struct("<Q")


class TensorType(NamedTuple):
    """A tensor type (GGMLQuantizationType): `block` values are stored in `block_bytes` bytes."""

    number: int  # of the type, in files
    name: str
    block: int
    block_bytes: int


# the same as the `gguf` package's own table (tested); importing it takes longer than reading a header
TENSOR_TYPES = {
    number: TensorType(number, name, block, block_bytes)
    for block, types in {
        1: "0 F32 4, 1 F16 2, 24 I8 1, 25 I16 2, 26 I32 4, 27 I64 8, 28 F64 8, 30 BF16 2",
        32: "2 Q4_0 18, 3 Q4_1 20, 6 Q5_0 22, 7 Q5_1 24, 8 Q8_0 34, 9 Q8_1 40, 20 IQ4_NL 18, 39 MXFP4 17",
        64: "40 NVFP4 36",
        128: "41 Q1_0 18",
        256: "10 Q2_K 84, 11 Q3_K 110, 12 Q4_K 144, 13 Q5_K 176, 14 Q6_K 210, 15 Q8_K 292, 16 IQ2_XXS 66, "
        "17 IQ2_XS 74, 18 IQ3_XXS 98, 19 IQ1_S 50, 21 IQ3_S 110, 22 IQ2_S 82, 23 IQ4_XS 136, 29 IQ1_M 56, "
        "34 TQ1_0 54, 35 TQ2_0 66",
    }.items()
    for number, name, block_bytes in [(int(n), name, int(b)) for n, name, b in map(str.split, types.split(", "))]
}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of the file: its type, shape in torch's order, and position."""

    kind: TensorType
    shape: Shape
    start: int  # byte offset from the beginning of the file
    nbytes: int


class Cursor:
    """Sequential reader of the header, with bounds checks."""

    def __init__(self, data: memoryview) -> None:
        self.data, self.position, self.items = data, 0, 0

    def take(self, size: int) -> memoryview:
        """Read `size` bytes."""
        end = self.position + size
        if end > len(self.data):
            raise LuthierError(f"the file is truncated or broken: its header asks for byte {end} of {len(self.data)}")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def array(self, dtype: str, count: int) -> Any:
        """Read `count` numbers as Python numbers."""
        kind = np.dtype(dtype)
        return np.frombuffer(self.take(count * kind.itemsize), kind).tolist()

    def number(self, dtype: str) -> Any:
        """Read a number. A float32 becomes the shortest decimal for it: 1e-05, not 9.999999747378752e-06."""
        kind = np.dtype(dtype)
        value = np.frombuffer(self.take(kind.itemsize), kind)[0]
        return float(str(value)) if dtype == "<f4" else value.item()

    def count(self, what: str, smallest: int, most: int) -> int:
        """Read a count of items that take at least `smallest` bytes each."""
        (count,) = LENGTH.unpack(self.take(8))
        left = len(self.data) - self.position
        if count > most or count * smallest > left:
            raise LuthierError(f"the file is truncated or broken: {count} {what} in {left} bytes")
        return int(count)

    def text(self, what: str) -> str:
        """Read a string."""
        (size,) = LENGTH.unpack(self.take(8))
        try:
            return str(self.take(size), "utf-8")
        except UnicodeDecodeError:
            raise LuthierError(f"the file is broken: {what} is not UTF-8") from None

    def texts(self, what: str, count: int) -> list[str]:
        """Read `count` strings: a fast version of `text`, for vocabularies of a hundred thousand tokens."""
        data, position, end = self.data, self.position, len(self.data)
        found = []
        try:
            for _ in range(count):
                start = position + 8
                position = start + LENGTH.unpack_from(data, position)[0]
                if position > end:
                    break
                found.append(str(data[start:position], "utf-8"))
        except (struct.error, UnicodeDecodeError):
            position = end + 1
        if position > end:  # reread with `text`, which raises a precise error
            return [self.text(what) for _ in range(count)]
        self.position = position
        return found

    def name(self, what: str) -> str:
        """Read a name. Names appear in error messages on a terminal, so control characters are rejected."""
        name = self.text(f"the name of a {what}")
        if not 0 < len(name) <= MAX_NAME or not name.isprintable():
            raise LuthierError(f"the file is broken: {name!r:.60} is not a name of a {what}")
        return name

    def value(self, name: str) -> Any:
        """Read a metadata value as plain Python."""
        kind = self.number("<u4")
        if kind == ARRAY:
            return self.values(name)
        if kind == STRING:
            return self.text(f"'{name:.60}'")
        return self.number(value_dtype(name, kind))

    def values(self, name: str) -> list[Any]:
        """Read the items of an array. (No model has nested arrays, and llama.cpp rejects them.)"""
        kind, what = self.number("<u4"), f"'{name:.60}'"
        dtype = "<u8" if kind == STRING else value_dtype(name, kind)  # a string begins with its length
        count = self.count(f"items in {what}", np.dtype(dtype).itemsize, MAX_ITEMS - self.items)
        self.items += count
        if kind == STRING:
            return self.texts(what, count)
        numbers: list[Any] = self.array(dtype, count)
        return numbers


def value_dtype(name: str, kind: int) -> str:
    """NumPy dtype of a metadata value type."""
    if kind not in NUMBERS:
        raise LuthierError(f"the file is broken: '{name:.60}' has an unknown value type ({kind})")
    return NUMBERS[kind]


def read_header(data: Any) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
    """Read (metadata, tensors) from a file's bytes, which may be mapped. Raises a LuthierError that names the fault."""
    cursor = Cursor(memoryview(data)[:MAX_HEADER])
    if bytes(cursor.take(4)) != MAGIC:
        raise LuthierError("this is not a GGUF file")
    version = cursor.number("<u4")
    if version not in VERSIONS:
        order = " (it may be big endian)" if version % 2**16 == 0 else ""
        raise LuthierError(f"GGUF version {version}{order} cannot be read, only {' and '.join(map(str, VERSIONS))}")
    n_tensors = cursor.count("tensors", 32, MAX_ENTRIES)
    n_settings = cursor.count("settings", 13, MAX_ENTRIES)
    settings: dict[str, Any] = {}
    for _ in range(n_settings):
        name = cursor.name("setting")
        if name in settings:
            raise LuthierError(f"the file is broken: two settings '{name:.60}'")
        settings[name] = cursor.value(name)
    return settings, read_tensor_infos(cursor, n_tensors, settings.get("general.alignment", 32), data.size)


def read_tensor_infos(cursor: Cursor, n_tensors: int, alignment: object, file_size: int) -> dict[str, TensorInfo]:
    """Read the type, shape and position of each tensor, checked against the size of the file."""
    if not isinstance(alignment, int) or not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise LuthierError(f"the file is broken: general.alignment {alignment!r:.60} is not a power of 2")
    found: dict[str, tuple[TensorType, Shape, int, int]] = {}  # with the offset in the data
    for _ in range(n_tensors):
        name = cursor.name("tensor")
        if name in found:
            raise LuthierError(f"the file is broken: two tensors '{name:.60}'")
        n_dimensions = cursor.number("<u4")
        if not 1 <= n_dimensions <= MAX_DIMENSIONS:
            raise LuthierError(f"the file is broken: '{name:.60}' has {n_dimensions} dimensions")
        dimensions = cursor.array("<u8", n_dimensions)
        number, offset = cursor.number("<u4"), cursor.number("<u8")
        kind = TENSOR_TYPES.get(number)
        if kind is None:
            raise LuthierError(f"'{name:.60}' has an unknown tensor type ({number})")
        size = math.prod(dimensions)
        if size == 0 or dimensions[0] % kind.block:
            raise LuthierError(f"the file is broken: '{name:.60}' is {tuple(dimensions)}, in {kind.name}")
        if offset % alignment:
            raise LuthierError(f"the file is broken: '{name:.60}' is at {offset}, not a multiple of {alignment}")
        found[name] = kind, tuple(reversed(dimensions)), offset, size // kind.block * kind.block_bytes
    data_start = -(-cursor.position // alignment) * alignment
    for name, (_, _, offset, nbytes) in found.items():
        if (end := data_start + offset + nbytes) > file_size:
            raise LuthierError(f"the file is truncated: '{name:.60}' ends at byte {end} of {file_size}")
    return {
        name: TensorInfo(kind, shape, data_start + offset, nbytes)
        for name, (kind, shape, offset, nbytes) in found.items()
    }
