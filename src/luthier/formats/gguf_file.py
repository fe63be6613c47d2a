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
from luthier.formats.gguf_header import TensorInfo, TensorType, read_header
from luthier.formats.weight_table import Shape

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
VALUES_PER_CHUNK = 2**21  # values dequantized or quantized at once


class GGUFFile:
    """Weights (a `weight_table.Checkpoint`) and metadata of a file.

    fields: metadata as plain Python values. dequantized_dtype: dtype of dequantized tensors. The map is copy-on-write:
    writing to a tensor never changes the file.
    """

    def __init__(self, path: Path, dequantized_dtype: torch.dtype = torch.bfloat16) -> None:
        self.dequantized_dtype = dequantized_dtype
        try:
            with path.open("rb") as file:
                if not os.fstat(file.fileno()).st_size:  # an empty file cannot be mapped
                    raise LuthierError("the file is empty")
                self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            self.data: Any = np.frombuffer(self.map, np.uint8)
            self.fields, self.infos = read_header(self.data)
        except OSError as error:
            raise LuthierError(f"{path} cannot be read: {error.strerror or error}") from None
        except LuthierError as error:
            raise LuthierError(f"{path}: {error}") from None

    def shapes(self) -> Mapping[str, Shape]:
        return {name: info.shape for name, info in self.infos.items()}

    def is_quantized(self) -> bool:
        """Whether any tensor is block-quantized."""
        return any(info.kind.name not in FLOATS for info in self.infos.values())

    def tensor(self, name: str) -> Tensor:
        kind, data = self.raw(name)
        if kind.name not in FLOATS:
            return self.dequantize(name)
        dtype, bytes_ = FLOATS[kind.name], torch.from_numpy(data)
        if self.infos[name].start % dtype.itemsize:  # a file may declare an alignment of 1
            bytes_ = bytes_.clone()
        return bytes_.view(dtype)

    def raw(self, name: str) -> tuple[TensorType, Any]:
        """(number type, raw bytes): a mapped uint8 array whose last dimension is the bytes of a row."""
        info = self.infos[name]
        data = self.data[info.start : info.start + info.nbytes]
        return info.kind, data.reshape(*info.shape[:-1], -1)

    def dequantize(self, name: str) -> Tensor:
        """Dequantize a tensor to `self.dequantized_dtype`."""
        kind, data = self.raw(name)
        rows = data.reshape(-1, data.shape[-1])
        tensor = torch.empty(self.infos[name].shape, dtype=self.dequantized_dtype)
        into = tensor.view(len(rows), -1)
        step = max(1, VALUES_PER_CHUNK // into.shape[1])
        try:
            with np.errstate(all="ignore"):  # a broken file may hold infinite scales
                for start in range(0, len(rows), step):
                    into[start : start + step] = dequantize_rows(rows[start : start + step], kind)
        except (NotImplementedError, ValueError):
            raise LuthierError(f"'{name}' is of the number type {kind.name}, which cannot be dequantized") from None
        self.release(self.infos[name])
        return tensor

    def release(self, info: TensorInfo) -> None:
        """Release the memory of a tensor's bytes; they are read again from the file on access.

        Whole pages only: adjacent bytes may be a mapped weight that has been modified.
        """
        first, last = -(-info.start // mmap.PAGESIZE), (info.start + info.nbytes) // mmap.PAGESIZE
        if last > first and hasattr(mmap, "MADV_DONTNEED"):
            self.map.madvise(mmap.MADV_DONTNEED, first * mmap.PAGESIZE, (last - first) * mmap.PAGESIZE)


def dequantize_rows(rows: Any, kind: TensorType) -> Tensor:
    """Dequantize rows, uint8 (N, bytes) -> (N, numbers) float32. NotImplementedError or ValueError: unsupported."""
    if kind.name == "Q8_0":  # common for embeddings: avoids importing the package, which is slow
        blocks = torch.from_numpy(np.ascontiguousarray(rows)).view(len(rows), -1, kind.block_bytes)
        scales = blocks[..., :2].contiguous().view(torch.float16)  # (N, blocks, 1)
        return (blocks[..., 2:].view(torch.int8) * scales.float()).flatten(1)
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize as gguf_dequantize

    return torch.from_numpy(gguf_dequantize(rows, GGMLQuantizationType(kind.number)))
