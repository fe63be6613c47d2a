"""Opening a GGUF file where the compiled library is not available: its 4-bit blocks stay what they are, for PyTorch's
own products. Its other blocks are unpacked, and rounded anew.

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
from luthier.model_files.unread import Unread
from luthier.model_files.weights import Opened
from luthier.quantize.linear import GROUP, Int4Linear
from luthier.quantize.quantize import fits, linears, quantize, replace
from luthier.tokenizers.formats.gguf_vocabulary import from_gguf

BLOCK_BYTES = {"Q4_0": 18, "Q4_1": 20}  # scale, lowest (Q4_1 alone), 32 halves of a byte


def read(path: Path) -> Opened:
    """A GGUF file as `gguf.read` opens it, its 4-bit matrices never unpacked."""
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
            packed[name] = Int4Linear(numbers, scales, zeros)  # one at a time: loose numbers take twice the room
            external.add(their)
        weights = {
            name: tensor.to(torch.bfloat16)
            for name, tensor in to_internal(table, Unread(file, external), state)
            if not tensor.is_meta
        }  # fmt: skip
        for name, linear in packed.items():
            linear.bias = weights.pop(name.removesuffix("weight") + "bias", None)
            replace(model, name.removesuffix(".weight"), linear)
        tokenizer = from_gguf(file.fields)
    except LuthierError as error:
        raise LuthierError(f"{path}: {error}") from None
    registry.assign_weights(model, {**weights, **{n: t for n, t in model.state_dict().items() if not t.is_meta}})
    return Opened(quantize(model, "int4"), config, tokenizer)


def packed_matrices(
    file: GGUFFile, table: Table, matrices: dict[str, nn.Linear]
) -> Iterator[tuple[str, tuple[str, Tensor, Tensor, Tensor]]]:
    """Those that can stay packed: our name, and their name, numbers (N, K), scales (N, G), zeros (N, G).

    The rules of the table change the order of rows alone, and so are asked to move numbers, scales and zeros alike. One
    that does more gives other shapes: then the matrix is unpacked, and packed again.
    """
    for rule in table.rules:
        [name, *more] = rule.external
        place = file.places.get(name)
        if more or place is None or place.kind.name not in BLOCK_BYTES or len(place.shape) != 2:
            continue
        wanted = [matrices.get(internal) for internal in rule.internal]
        if any(linear is None or not fits(linear, four=True) for linear in wanted):
            continue
        shapes = [torch.empty(*place.shape, device="meta"), torch.empty(place.shape[0], place.shape[1] // GROUP)]
        moved = [rule.to_internal([tensor]) for tensor in shapes]
        if any(
            tuple(whole.shape) != tuple(linear.weight.shape) or scale.shape != (whole.shape[0], whole.shape[1] // GROUP)
            for whole, scale, linear in zip(*moved, [linear for linear in wanted if linear], strict=True)
        ):
            continue
        parts = [rule.to_internal([part]) for part in blocks(*file.raw(name))]
        for internal, numbers, scales, zeros in zip(rule.internal, *parts, strict=True):
            yield internal, (name, numbers, scales, zeros)


def blocks(kind: Any, data: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Q4_0 and Q4_1 rows (N, bytes) -> numbers (N, K) of 0 to 15, scales and zeros (N, G).

    A weight is d * (q - 8) in Q4_0 and d * q + m in Q4_1; a layer's is (q - 8) * scale + zero. A block holds its
    weights 0 to 15 in the low halves of its bytes, 16 to 31 in the high ones.
    """
    size = BLOCK_BYTES[kind.name]
    rows = data.reshape(len(data), -1, size)  # (N, G, bytes)
    halves = torch.from_numpy(np.ascontiguousarray(rows[:, :, -GROUP // 2 :]))
    numbers = torch.cat((halves & 15, halves >> 4), -1).flatten(1)
    floats = torch.from_numpy(np.ascontiguousarray(rows[:, :, : size - GROUP // 2]).view(np.float16)).float()
    scales = floats[..., 0]
    zeros = floats[..., 1] + 8 * scales if kind.name == "Q4_1" else torch.zeros_like(scales)
    return numbers, scales, zeros
