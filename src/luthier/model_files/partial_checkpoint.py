"""A GGUF file without the matrices that are loaded in packed form."""

from __future__ import annotations

import torch
from torch import Tensor

from luthier.formats.gguf_file import GGUFFile
from luthier.formats.weight_table import Shape


class PartialCheckpoint:
    """A GGUF file (a `weight_table.Checkpoint`) whose packed matrices are `meta` tensors: for all other weights."""

    def __init__(self, file: GGUFFile, packed: set[str]) -> None:
        self.file, self.packed = file, packed

    def shapes(self) -> dict[str, Shape]:
        return dict(self.file.shapes())

    def tensor(self, name: str) -> Tensor:
        if name in self.packed:
            return torch.empty(self.file.infos[name].shape, dtype=torch.bfloat16, device="meta")
        return self.file.tensor(name)
