"""Quantize a model's matrices to 8 or 4 bits in place."""

from __future__ import annotations

from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from luthier.errors import UsageError
from luthier.model.overrides import must_be_called
from luthier.model.transformer import Transformer
from luthier.native.blocks import BlockLinear, Blocks, eight_bits, four_bits
from luthier.native.build import has_library
from luthier.quantize.linear import GROUP, LANES, Int4Linear, Int8Linear

Kind = Literal["int8", "int4"]
WIDE = ("attention.query", "attention.key", "attention.value")
ROWS = 4096  # rows of a matrix quantized at once
MULTIPLE = 16  # rows and columns required by the products with packed weights


@torch.no_grad()
def quantize(model: Transformer, kind: Kind) -> Transformer:
    """Replace every `nn.Linear` of a model on the CPU by an 8- or 4-bit one. Returns the same model, for inference
    only.

    "int8": blocks of GGUF's Q8_0, a scale for each 32 weights. "int4": of Q4_1, a scale and a minimum for each 32; the
    output matrix takes 8 bits, since its errors affect every token. Without the compiled library: PyTorch's own, in 8
    bits with one scale per row. A matrix whose columns are no multiple of 32 takes 8 bits by rows, and is left
    unchanged if its sizes are no multiple of 16. Embeddings, norms, routers, and a mixture's stacked experts are left
    unchanged: a tied output matrix is separated from its embedding. Raises a UsageError for another kind or device.
    """
    if kind not in get_args(Kind):
        raise UsageError(f"quantize '{kind}' is not to be had; there are {', '.join(get_args(Kind))}")
    if model.device.type != "cpu":
        raise UsageError(f"quantize {kind} is for the CPU, and the model is on {model.device}")
    for name, linear in linears(model):
        bias = None if linear.bias is None else linear.bias.detach()
        few = kind == "int4" and name != "output"
        if has_library() and linear.in_features % GROUP == 0:
            replace(model, name, in_blocks(name, linear.weight, bias, "Q4_1" if few else "Q8_0"))
        elif (four := few and fits(linear, four=True)) or fits(linear, four=False):
            replace(model, name, (Int4Linear if four else Int8Linear).of(linear.weight, bias))
    return model.eval()


def in_blocks(name: str, weight: Tensor, bias: Tensor | None, kind: str) -> BlockLinear:
    """A layer whose weight is quantized in blocks."""
    blocks = Blocks(kind, *weight.shape)
    for first in range(0, len(weight), ROWS):
        rows = weight[first : first + ROWS]
        blocks.fill(four_bits(rows) if kind == "Q4_1" else eight_bits(rows), first)
    return BlockLinear(blocks, bias, wide=is_wide(name))


def is_wide(name: str) -> bool:
    """Whether a matrix keeps 16-bit inputs: those where 8 bits cost the most accuracy (docs/experiments.md)."""
    return name == "output" or name.endswith(WIDE)


def is_quantized(model: Transformer) -> bool:
    """Whether any matrix is quantized."""
    return any(isinstance(module, (BlockLinear, Int4Linear, Int8Linear)) for module in model.modules())


def linears(model: Transformer) -> list[tuple[str, nn.Linear]]:
    """The matrices to quantize, by name. Routers are excluded: they are small, and their choices should not change.

    A matrix with hooks, or of a subclass, is left unchanged: its replacement would not behave the same.
    """
    return [
        (name, cast("nn.Linear", module))
        for name, module in model.named_modules()
        if not must_be_called(module, nn.Linear)
    ]


def fits(linear: nn.Linear, *, four: bool) -> bool:
    """Whether a matrix has sizes that can be packed."""
    columns, rows = (GROUP, LANES) if four else (MULTIPLE, MULTIPLE)
    return linear.in_features % columns == 0 and linear.out_features % rows == 0


def replace(model: Transformer, name: str, module: nn.Module) -> None:
    """Replace a matrix by a module."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
    if name == "output":
        model.tie_embeddings = False
