"""GGUF, the single-file format of llama.cpp: metadata, tokenizer and weights, optionally block-quantized.

F32, F16 and BF16 tensors are memory-mapped. Quantized tensors are dequantized by the `gguf` package, a few rows at a
time, directly into the requested dtype; their raw bytes are available too.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from luthier.errors import LuthierError
from luthier.formats.gguf_header import NumberType, Place, read_header
from luthier.formats.weight_table import Shape

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
PIECE = 2**21  # numbers dequantized or quantized at once


class GGUFFile:
    """Weights (a `weight_table.Checkpoint`) and metadata of a file.

    fields: metadata as plain Python values. unpacked: dtype of dequantized tensors. The map is copy-on-write: writing
    to a tensor never changes the file.
    """

    def __init__(self, path: Path, unpacked: torch.dtype = torch.bfloat16) -> None:
        self.unpacked = unpacked
        try:
            with path.open("rb") as file:
                if not os.fstat(file.fileno()).st_size:  # an empty file cannot be mapped
                    raise LuthierError("the file is empty")
                self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            self.data: Any = np.frombuffer(self.map, np.uint8)
            self.fields, self.places = read_header(self.data)
        except OSError as error:
            raise LuthierError(f"{path} cannot be read: {error.strerror or error}") from None
        except LuthierError as error:
            raise LuthierError(f"{path}: {error}") from None

    def shapes(self) -> Mapping[str, Shape]:
        return {name: place.shape for name, place in self.places.items()}

    def is_quantized(self) -> bool:
        """Whether any tensor is block-quantized."""
        return any(place.kind.name not in FLOATS for place in self.places.values())

    def tensor(self, name: str) -> Tensor:
        kind, data = self.raw(name)
        if kind.name not in FLOATS:
            return self.unpack(name)
        dtype, bytes_ = FLOATS[kind.name], torch.from_numpy(data)
        if self.places[name].start % dtype.itemsize:  # a file may declare an alignment of 1
            bytes_ = bytes_.clone()
        return bytes_.view(dtype)

    def raw(self, name: str) -> tuple[NumberType, Any]:
        """(number type, raw bytes): a mapped uint8 array whose last dimension is the bytes of a row."""
        place = self.places[name]
        data = self.data[place.start : place.start + place.nbytes]
        return place.kind, data.reshape(*place.shape[:-1], -1)

    def unpack(self, name: str) -> Tensor:
        """Dequantize a tensor to the dtype `unpacked`."""
        kind, data = self.raw(name)
        rows = data.reshape(-1, data.shape[-1])
        tensor = torch.empty(self.places[name].shape, dtype=self.unpacked)
        into = tensor.view(len(rows), -1)
        step = max(1, PIECE // into.shape[1])
        try:
            with np.errstate(all="ignore"):  # a broken file may hold infinite scales
                for start in range(0, len(rows), step):
                    into[start : start + step] = numbers_of(rows[start : start + step], kind)
        except (NotImplementedError, ValueError):
            raise LuthierError(f"'{name}' is of the number type {kind.name}, which cannot be unpacked here") from None
        self.forget(self.places[name])
        return tensor

    def forget(self, place: Place) -> None:
        """Release the memory of a tensor's bytes; they are read from the file again on access.

        Whole pages only: adjacent bytes may be a mapped weight that has been modified.
        """
        first, last = -(-place.start // mmap.PAGESIZE), (place.start + place.nbytes) // mmap.PAGESIZE
        if last > first and hasattr(mmap, "MADV_DONTNEED"):
            self.map.madvise(mmap.MADV_DONTNEED, first * mmap.PAGESIZE, (last - first) * mmap.PAGESIZE)


def numbers_of(rows: Any, kind: NumberType) -> Tensor:
    """Dequantize rows, uint8 (N, bytes) -> (N, numbers) float32. NotImplementedError or ValueError: unsupported."""
    if kind.name == "Q8_0":  # common for embeddings: avoids importing the package, which is slow
        blocks = torch.from_numpy(np.ascontiguousarray(rows)).view(len(rows), -1, kind.block_bytes)
        scales = blocks[..., :2].contiguous().view(torch.float16)  # (N, blocks, 1)
        return (blocks[..., 2:].view(torch.int8) * scales.float()).flatten(1)
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    return torch.from_numpy(dequantize(rows, GGMLQuantizationType(kind.number)))
