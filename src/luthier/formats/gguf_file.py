"""GGUF, the one-file format of llama.cpp: settings, tokenizer and weights, which may be quantised in blocks.

F32, F16 and BF16 are mapped. Quantised tensors are unpacked by the `gguf` package, some rows at a time, straight into
the type that is wanted; their bytes can be had as they are, too.
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
from luthier.formats.names import Shape

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
PIECE = 2**21  # numbers that are unpacked or packed at once


class GGUFFile:
    """The weights of a file (a `names.Checkpoint`), and its settings.

    fields: the settings, as plain Python. unpacked: the dtype that quantised tensors come in. Pages that are written
    to are this program's own: the file never changes.
    """

    def __init__(self, path: Path, unpacked: torch.dtype = torch.bfloat16) -> None:
        self.unpacked = unpacked
        try:
            with path.open("rb") as file:
                if not os.fstat(file.fileno()).st_size:  # which cannot be mapped
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

    def is_quantised(self) -> bool:
        """Whether any tensor is packed in blocks."""
        return any(place.kind.name not in FLOATS for place in self.places.values())

    def tensor(self, name: str) -> Tensor:
        kind, data = self.raw(name)
        if kind.name not in FLOATS:
            return self.unpack(name)
        dtype, bytes_ = FLOATS[kind.name], torch.from_numpy(data)
        if self.places[name].start % dtype.itemsize:  # a file may ask for an alignment of 1
            bytes_ = bytes_.clone()
        return bytes_.view(dtype)

    def raw(self, name: str) -> tuple[NumberType, Any]:
        """(number type, its bytes): a mapped uint8 array whose last dimension is the bytes of a row."""
        place = self.places[name]
        data = self.data[place.start : place.start + place.nbytes]
        return place.kind, data.reshape(*place.shape[:-1], -1)

    def unpack(self, name: str) -> Tensor:
        """A quantised tensor in the dtype `unpacked`."""
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
        """Let go of the memory behind a tensor's bytes; they are read from the file again if they are needed.

        Only of whole pages: what lies beside them may be a mapped weight that was changed since.
        """
        first, last = -(-place.start // mmap.PAGESIZE), (place.start + place.nbytes) // mmap.PAGESIZE
        if last > first and hasattr(mmap, "MADV_DONTNEED"):
            self.map.madvise(mmap.MADV_DONTNEED, first * mmap.PAGESIZE, (last - first) * mmap.PAGESIZE)


def numbers_of(rows: Any, kind: NumberType) -> Tensor:
    """Packed rows, uint8 (N, bytes) -> (N, numbers) float32. NotImplementedError or ValueError: there is no way."""
    if kind.name == "Q8_0":  # embeddings mostly are, and nobody is to wait for the package
        blocks = torch.from_numpy(np.ascontiguousarray(rows)).view(len(rows), -1, kind.block_bytes)
        scales = blocks[..., :2].contiguous().view(torch.float16)  # (N, blocks, 1)
        return (blocks[..., 2:].view(torch.int8) * scales.float()).flatten(1)
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    return torch.from_numpy(dequantize(rows, GGMLQuantizationType(kind.number)))
