"""Weights in PyTorch's .pth and .pt files: a zip with a pickle of names and shapes, and the raw data.

A pickle is a program. `torch.load(weights_only=True)` executes only what builds tensors; before that, the pickle is
scanned without being executed and must import nothing but what plain tensors need, so that an error can name what it
tried to import, and nothing in it can take more memory than the file has bytes.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from luthier.errors import LuthierError
from luthier.formats.pickle_check import check_pickle

MAX_DIRECTORY = 8 * 2**20  # bytes of a zip's central directory, some 100 per tensor
MAX_PICKLE = 8 * 2**20  # bytes; a model of 100 layers with its optimizer has under one million
NESTED = ("model_state_dict", "state_dict", "model")  # keys under which training programs nest the weights
STORAGES = {
    torch.float32: torch.FloatStorage,
    torch.bfloat16: torch.BFloat16Storage,
    torch.float16: torch.HalfStorage,
    torch.float64: torch.DoubleStorage,
}
OTHER_STORAGES = ("LongStorage", "IntStorage", "ShortStorage", "CharStorage", "ByteStorage", "BoolStorage")
GLOBALS = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch Size",
    "torch device",
    "_codecs encode",  # bytes, as pickle protocol 2 writes them
    "_io BytesIO",  # the `_extra_state` in Llama 4's files
    *(f"torch {storage.__name__}" for storage in STORAGES.values()),
    *(f"torch {name}" for name in OTHER_STORAGES),
    *(str(dtype).replace(".", " ") for dtype in STORAGES),
}
ALIGNMENT = 64  # bytes: alignment of each tensor in written files, as in PyTorch's


class PthFile:
    """The named tensors of one file (a `weight_table.Checkpoint`), memory-mapped."""

    def __init__(self, path: Path) -> None:
        self.tensors = named_tensors(path, load(path))
        size = path.stat().st_size
        for name, tensor in self.tensors.items():  # with strides of 0, a shape can claim unlimited numbers
            if tensor.nbytes > tensor.untyped_storage().nbytes():
                raise LuthierError(f"{path}: '{name}' claims more elements than the file contains")
        if sum(tensor.nbytes for tensor in self.tensors.values()) > 2 * size:  # 2: a tied matrix may occur twice
            raise LuthierError(f"{path}: its tensors share storage; together they would be larger than the file")

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    def tensor(self, name: str) -> Tensor:
        return self.tensors[name]


def load(path: Path) -> Any:
    """Load a file after checking that it holds data only. Raises a LuthierError, with nothing executed."""
    check_pickle(path, read_pickle(path), GLOBALS)
    try:
        with torch.serialization.safe_globals([io.BytesIO]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises some ten kinds of errors for broken files
        # torch's message advises at length to trust the file; the fault comes after
        line = str(error).rpartition("WeightsUnpickler error: ")[2].strip().partition("\n")[0]
        raise LuthierError(
            f"{path} is damaged or not a file of weights ({type(error).__name__}: {line:.200})"
        ) from None


def read_pickle(path: Path) -> bytes:
    """Read the pickle in the zip. Raises a LuthierError for files that are not a zip as PyTorch writes it."""
    try:
        if directory_size(path) > MAX_DIRECTORY:  # before all of its entries are in memory
            raise LuthierError(f"{path} is a zip with too many entries")
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise LuthierError(f"{path} is a zip without a PyTorch pickle")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise LuthierError(
                    f"{path} is compressed, and PyTorch's files never are: save it again with torch.save"
                )
            if sum(entry.file_size for entry in entries) > path.stat().st_size:
                raise LuthierError(f"{path} declares more bytes than it has")
            if pickles[0].file_size > MAX_PICKLE:
                raise LuthierError(
                    f"{path}: a pickle of {pickles[0].file_size:,} bytes is too large for names and shapes"
                )
            return archive.read(pickles[0])
    except OSError as error:
        raise LuthierError(f"{path} cannot be read: {error.strerror or error}") from None
    except LuthierError:
        raise
    except Exception as error:  # a hostile zip causes errors of many kinds
        raise LuthierError(
            f"{path} is not a file of weights, or truncated ({error}). If it is older than PyTorch 1.6, open it "
            "there and save it again with torch.save"
        ) from None


def directory_size(path: Path) -> int:
    """Size of a zip's central directory, as declared in one of the two records at its end."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, io.SEEK_END) - 98))
        tail = file.read().rjust(98)
    if tail[-22:-18] != b"PK\5\6":
        raise zipfile.BadZipFile("it does not end as a zip does")
    (size,) = struct.unpack("<I", tail[-10:-6])
    if tail[:4] == b"PK\6\6":  # zip64: 56 bytes, a locator of 20, and the old record of 22
        size = max(size, *struct.unpack("<Q", tail[40:48]))
    return int(size)


def named_tensors(path: Path, found: Any) -> dict[str, Tensor]:
    """Find the state dict in a loaded object: the object itself, or a value under a common key."""
    if not isinstance(found, dict):
        raise LuthierError(
            f"{path} contains a {type(found).__name__} instead of named tensors: save model.state_dict()"
        )
    weights = next((found[name] for name in NESTED if isinstance(found.get(name), dict)), found)
    tensors: dict[str, Tensor] = {}
    for name, value in weights.items():
        if value is None or isinstance(value, io.BytesIO):  # `_extra_state`
            continue
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise LuthierError(f"{path}: {name!r:.60} is a {type(value).__name__}, not a named tensor")
        tensors[name] = value.detach()
    if not tensors:
        raise LuthierError(f"{path} contains no tensors")
    return tensors


def write(path: Path, layout: Mapping[str, Tensor], tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write a file that `torch.load(path, weights_only=True)` loads as a dict of tensors, one tensor at a time.

    layout: the same names in the same order, as `meta` tensors. (torch.save would hold all of them at once.)
    """
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{path.stem}/data.pkl", pickle_layout(layout))
        archive.writestr(f"{path.stem}/byteorder", "little")
        for number, (name, tensor) in enumerate(tensors):
            entry = zipfile.ZipInfo(f"{path.stem}/data/{number}")
            entry.extra = padding(archive.start_dir + len(entry.filename))
            with archive.open(entry, "w", force_zip64=True) as file:
                file.write(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
            if tensor.nbytes != layout[name].nbytes:
                raise ValueError(f"{name} has {tensor.nbytes} bytes, not {layout[name].nbytes}")
        archive.writestr(f"{path.stem}/version", "3\n")


def padding(end_of_name: int) -> bytes:
    """Extra field that aligns an entry's data to ALIGNMENT: otherwise it could not be memory-mapped."""
    fixed, zip64 = 30, 20  # bytes of the entry's header, and of the field that zipfile adds
    size = -(end_of_name + fixed + zip64 + 4) % ALIGNMENT
    return struct.pack("<HH", 0x4246, size) + b"Z" * size


class Storage(NamedTuple):
    """Placeholder in the pickle for the storage of a tensor."""

    key: str
    dtype: torch.dtype
    n_numbers: int


class Pickler(pickle.Pickler):
    """Pickles a dict of `meta` tensors as torch.save pickles real tensors."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=2)
        self.n_storages = 0

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, Storage):
            return ("storage", STORAGES[value.dtype], value.key, "cpu", value.n_numbers)
        return None

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        storage = Storage(str(self.n_storages), value.dtype, value.numel())
        self.n_storages += 1
        strides = torch.empty(value.shape, device="meta").stride()  # as if contiguous
        return torch._utils._rebuild_tensor_v2, (storage, 0, tuple(value.shape), strides, False, OrderedDict())


def pickle_layout(layout: Mapping[str, Tensor]) -> bytes:
    """Pickle of a state dict whose n-th tensor is stored in `data/n`."""
    content = io.BytesIO()
    Pickler(content).dump(dict(layout))
    return content.getvalue()
