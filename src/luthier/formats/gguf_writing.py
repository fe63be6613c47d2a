"""Write GGUF files, one tensor at a time. The `gguf` package lays out the file and quantizes the blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from luthier.errors import LuthierError
from luthier.files.atomic_file import replacing_file
from luthier.formats.gguf_file import FLOATS, VALUES_PER_CHUNK
from luthier.formats.weight_table import Shape

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

# largest magnitude that the 16-bit floats and scales of a type can represent
MAX_MAGNITUDE = {"F16": 65504.0, "Q8_0": 127 * 65504.0, "Q4_0": 8 * 65504.0}


def write(
    path: Path,
    settings: Mapping[str, Any],
    layout: Mapping[str, tuple[str, Shape]],
    tensors: Iterable[tuple[str, Tensor]],
) -> None:
    """Write a file atomically.

    settings: metadata as plain Python values, including "general.architecture". layout: type ("F32", "F16",
    "BF16", "Q8_0", "Q4_0") and shape of each tensor; `tensors` yields the same ones in the same order. Raises a
    LuthierError where a type cannot represent a tensor's values, or the file cannot be written.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter

    with replacing_file(path, begins=b"GGUF") as hidden:
        writer = GGUFWriter(hidden, settings["general.architecture"])
        try:
            for name, value in settings.items():
                add_setting(writer, name, value)
            for name, (kind, shape) in layout.items():
                number_type = GGMLQuantizationType[kind]
                block, block_bytes = GGML_QUANT_SIZES[number_type]
                nbytes = torch.Size(shape).numel() // block * block_bytes
                writer.add_tensor_info(name, shape, np.dtype(np.float32), nbytes, number_type)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for (name, (kind, shape)), (actual, tensor) in zip(layout.items(), tensors, strict=True):
                if actual != name or tuple(tensor.shape) != shape:
                    raise ValueError(f"expected the tensor {name}, got {actual}")
                writer.write_tensor_data(encode_tensor(name, tensor.detach().cpu(), kind))
        except UnicodeEncodeError as error:
            raise LuthierError(f"cannot write {path}: {error.object!r:.60} contains half of a surrogate pair") from None
        finally:
            writer.close()


def add_setting(writer: Any, name: str, value: Any) -> None:
    """Add a metadata entry, in the type that llama.cpp expects. Empty lists have no type and are left out."""
    from gguf import GGUFValueType

    if name == "general.architecture" or value == []:  # already added by the writer
        return
    kind = GGUFValueType.get_type(value)
    if kind == GGUFValueType.INT32 and value >= 0:
        kind = GGUFValueType.UINT32 if value < 2**32 else GGUFValueType.UINT64
    writer.add_key_value(name, value, kind)


def encode_tensor(name: str, tensor: Tensor, kind: str) -> Any:
    """Encode a tensor as a GGUF type, a uint8 array: a view if it already has that dtype."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if FLOATS.get(kind) == tensor.dtype:
        return tensor.contiguous().view(-1).view(torch.uint8).numpy()
    number_type = GGMLQuantizationType[kind]
    block, block_bytes = GGML_QUANT_SIZES[number_type]
    rows = tensor.reshape(-1, tensor.shape[-1])
    out = np.empty((len(rows), rows.shape[1] // block * block_bytes), np.uint8)
    step = max(1, VALUES_PER_CHUNK // rows.shape[1])
    for start in range(0, len(rows), step):
        piece = rows[start : start + step].float()
        if kind in MAX_MAGNITUDE and not bool((piece.abs() <= MAX_MAGNITUDE[kind]).all()):
            raise LuthierError(
                f"'{name}' has values that {kind} cannot represent: NaN, or above {MAX_MAGNITUDE[kind]:.0f}"
            )
        out[start : start + step] = encode_rows(piece, number_type)
    return out


def encode_rows(rows: Tensor, number_type: GGMLQuantizationType) -> Any:
    """Encode float32 rows as a GGUF type, a uint8 array."""
    from gguf.quants import quantize

    if number_type.name in FLOATS:
        return rows.to(FLOATS[number_type.name]).view(torch.uint8).numpy()
    with np.errstate(all="ignore"):  # tiny blocks have scales of 0
        return quantize(rows.numpy(), number_type)
