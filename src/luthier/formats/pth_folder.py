"""Folders with weights in PyTorch files as `transformers` saved them before safetensors: one file, or several."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from luthier.errors import LuthierError
from luthier.files.json_files import read_json
from luthier.formats.pth_files import PthFile

SINGLE = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"
PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]+\.bin")


class PthFolder:
    """Weights of a folder (a `weight_table.Checkpoint`), memory-mapped. Checked before unpickling: see pth_files.py."""

    def __init__(self, folder: Path) -> None:
        self.tensors: dict[str, Tensor] = {}
        for name in weight_files(folder):
            path = folder / name
            if not path.is_file():
                raise LuthierError(f"{path} is missing: {INDEX} names it")
            for tensor, value in PthFile(path).tensors.items():
                if tensor in self.tensors:
                    raise LuthierError(f"{folder}: tensor '{tensor}' is in two files")
                self.tensors[tensor] = value

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    def tensor(self, name: str) -> Tensor:
        return self.tensors[name]


def has_weights(folder: Path) -> bool:
    """Whether the folder has weights of this format."""
    return (folder / SINGLE).is_file() or (folder / INDEX).is_file()


def weight_files(folder: Path) -> list[str]:
    """Names of the weight files. Those in an index must be plain names: a path could leave the folder."""
    if (folder / SINGLE).is_file():
        return [SINGLE]
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise LuthierError(f"{folder / INDEX}: it has no weight_map from tensors to files")
    for shard in weight_map.values():
        if not isinstance(shard, str) or not PLAIN_NAME.fullmatch(shard):
            raise LuthierError(f"{folder / INDEX}: {shard!r:.60} is not the name of a .bin file in this folder")
    return list(dict.fromkeys(weight_map.values()))
