"""Weights in safetensors files: one file, or shards with an index.

The format is 8 bytes of length, a JSON header {name: {dtype, shape, data_offsets}}, and the data. Files are read by the
library, memory-mapped and with every offset checked. They are written here, because the library needs all tensors at
once and the converter produces them one at a time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from luthier.errors import LuthierError
from luthier.files.json_files import read_json, write_json

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9
PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]+\.safetensors")
DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class SafetensorsFolder:
    """Weights of a folder, one file or shards (a `weight_table.Checkpoint`). Tensors are views of the mapped file."""

    def __init__(self, folder: Path) -> None:
        self.files: dict[str, Any] = {}  # tensor name -> the open file that holds it
        for name in weight_files(folder):
            file = open_file(folder / name)
            for tensor in file.keys():  # noqa: SIM118 (not a dict)
                if tensor in self.files:
                    raise LuthierError(f"{folder}: tensor '{tensor}' is in two files")
                self.files[tensor] = file

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tuple(file.get_slice(name).get_shape()) for name, file in self.files.items()}

    def tensor(self, name: str) -> Tensor:
        try:
            tensor: Tensor = self.files[name].get_tensor(name)
        except SafetensorError as error:
            raise LuthierError(f"tensor '{name}' cannot be read: {error}") from None
        return tensor


def has_weights(folder: Path) -> bool:
    """Whether the folder has weights of this format."""
    return (folder / SINGLE).is_file() or (folder / INDEX).is_file()


def weight_files(folder: Path) -> list[str]:
    """Names of the weight files. Those in an index must be plain names: a path could leave the folder."""
    if (folder / SINGLE).is_file() or not (folder / INDEX).is_file():
        return [SINGLE]
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise LuthierError(f"{folder / INDEX}: it has no weight_map from tensors to files")
    for shard in weight_map.values():
        if not isinstance(shard, str) or not PLAIN_NAME.fullmatch(shard):
            raise LuthierError(f"{folder / INDEX}: {shard!r} is not the name of a .safetensors file in this folder")
    return list(dict.fromkeys(weight_map.values()))


def open_file(path: Path) -> Any:
    """Open one file with the library, which checks its header."""
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError:
        raise LuthierError(f"{path} is missing") from None
    except (SafetensorError, OSError) as error:
        raise LuthierError(f"{path} cannot be read, it is truncated or not a safetensors file: {error}") from None


def write(
    folder: Path, layout: Mapping[str, Tensor], tensors: Iterable[tuple[str, Tensor]], shard_bytes: int = SHARD_BYTES
) -> None:
    """Write `tensors` as they are produced, into one file, or into shards of at most `shard_bytes` with an index.

    layout: the same names in the same order, as `meta` tensors: the header precedes the data. A tensor larger than
    `shard_bytes` gets a shard of its own.
    """
    shards = split_into_shards(layout, shard_bytes)
    names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    stream = iter(tensors)
    for name, shard in zip(names if len(shards) > 1 else [SINGLE], shards, strict=True):
        write_file(folder / name, shard, stream)
    if len(shards) > 1:
        total = sum(tensor.nbytes for tensor in layout.values())
        weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def split_into_shards(layout: Mapping[str, Tensor], shard_bytes: int) -> list[dict[str, Tensor]]:
    """Partition the layout in order into shards, each as large as allowed."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in layout.items():
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    return shards


def write_file(path: Path, layout: Mapping[str, Tensor], stream: Iterator[tuple[str, Tensor]]) -> None:
    """Write one file with the next tensors of the stream."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in layout.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # data that starts at a multiple of 8 can be mapped
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for (name, expected), (actual, tensor) in zip(layout.items(), islice(stream, len(layout)), strict=True):
            if actual != name or tensor.nbytes != expected.nbytes:
                raise ValueError(f"expected the tensor {name}, got {actual}")
            file.write(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
