"""Load a GGUF file for PyTorch's int4 kernel, if the compiled library is not available: 4-bit blocks are kept, other
blocks are dequantized and quantized again.

Shapes: N rows, K columns, G = K / 32 blocks of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from luthier.architectures import registry
from luthier.errors import LuthierError
from luthier.formats.gguf_file import GGUFFile
from luthier.formats.weight_table import Table, to_internal
from luthier.model_files import gguf
from luthier.model_files.partial_checkpoint import PartialCheckpoint
from luthier.model_files.weights import LoadedModel
from luthier.quantize.linear import GROUP, Int4Linear
from luthier.quantize.quantize import fits, linears, quantize, replace
from luthier.tokenizers.formats.gguf_vocabulary import from_gguf

BLOCK_BYTES = {"Q4_0": 18, "Q4_1": 20}  # scale, minimum (Q4_1 only), 32 nibbles


def read(path: Path) -> LoadedModel:
    """Load a GGUF file as `gguf.read` does, without dequantizing 4-bit matrices."""
    file = GGUFFile(path)
    try:
        config = gguf.read_config(file.fields, file)
        table = gguf.table_of(config)
        model = registry.build_on_meta(config)
        state = model.state_dict()
        matrices = {f"{name}.weight": linear for name, linear in linears(model)}
        packed: dict[str, Int4Linear] = {}  # by the name of the weight
        external = set()
        for name, (their, numbers, scales, zeros) in packed_matrices(file, table, matrices):
            packed[name] = Int4Linear(numbers, scales, zeros)  # one at a time: unpacked values take twice the memory
            external.add(their)
        weights = {
            name: tensor.to(torch.bfloat16)
            for name, tensor in to_internal(table, PartialCheckpoint(file, external), state)
            if not tensor.is_meta
        }  # fmt: skip
        for name, linear in packed.items():
            linear.bias = weights.pop(name.removesuffix("weight") + "bias", None)
            replace(model, name.removesuffix(".weight"), linear)
        tokenizer = from_gguf(file.fields)
    except LuthierError as error:
        raise LuthierError(f"{path}: {error}") from None
    registry.assign_weights(model, {**weights, **{n: t for n, t in model.state_dict().items() if not t.is_meta}})
    return LoadedModel(quantize(model, "int4"), config, tokenizer)


def packed_matrices(
    file: GGUFFile, table: Table, matrices: dict[str, nn.Linear]
) -> Iterator[tuple[str, tuple[str, Tensor, Tensor, Tensor]]]:
    """The matrices that can stay packed: (internal name, (external name, values (N, K), scales and zeros (N, G))).

    Most rules only permute rows, so they can be applied to values, scales and zeros separately. A rule that does more
    would give other shapes: then the matrix is dequantized and quantized again.
    """
    for rule in table.rules:
        [name, *more] = rule.external
        info = file.infos.get(name)
        if more or info is None or info.kind.name not in BLOCK_BYTES or len(info.shape) != 2:
            continue
        wanted = [matrices.get(internal) for internal in rule.internal]
        if any(linear is None or not fits(linear, four=True) for linear in wanted):
            continue
        shapes = [torch.empty(*info.shape, device="meta"), torch.empty(info.shape[0], info.shape[1] // GROUP)]
        moved = [rule.to_internal([tensor]) for tensor in shapes]
        if any(
            tuple(whole.shape) != tuple(linear.weight.shape) or scale.shape != (whole.shape[0], whole.shape[1] // GROUP)
            for whole, scale, linear in zip(*moved, [linear for linear in wanted if linear], strict=True)
        ):
            continue
        parts = [rule.to_internal([part]) for part in unpack_blocks(*file.raw(name))]
        for internal, numbers, scales, zeros in zip(rule.internal, *parts, strict=True):
            yield internal, (name, numbers, scales, zeros)


def unpack_blocks(kind: Any, data: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Unpack Q4_0 or Q4_1 rows (N, bytes) into values (N, K) of 0 to 15, scales and zeros (N, G).

    A weight is d * (q - 8) in Q4_0 and d * q + m in Q4_1; in Int4Linear it is (q - 8) * scale + zero. A block has
    weights 0 to 15 in the low nibbles of its bytes, 16 to 31 in the high ones.
    """
    size = BLOCK_BYTES[kind.name]
    rows = data.reshape(len(data), -1, size)  # (N, G, bytes)
    halves = torch.from_numpy(np.ascontiguousarray(rows[:, :, -GROUP // 2 :]))
    numbers = torch.cat((halves & 15, halves >> 4), -1).flatten(1)
    floats = torch.from_numpy(np.ascontiguousarray(rows[:, :, : size - GROUP // 2]).view(np.float16)).float()
    scales = floats[..., 0]
    zeros = floats[..., 1] + 8 * scales if kind.name == "Q4_1" else torch.zeros_like(scales)
    return numbers, scales, zeros
