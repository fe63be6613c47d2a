"""Putting a model's matrices into 8 or 4 bits, where they are."""

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
ROWS = 4096  # of a matrix that are rounded at once
MULTIPLE = 16  # rows and columns that the products with packed weights want


@torch.no_grad()
def quantize(model: Transformer, kind: Kind) -> Transformer:
    """Replace every `nn.Linear` of a model on the CPU by one of 8 or 4 bits. Returns the same model, to be read only.

    "int8": blocks of GGUF's Q8_0, a scale for each 32 weights. "int4": of Q4_1, a scale and a smallest weight for each
    32; the output matrix takes 8 bits, since its errors reach every token. Without the compiled library: PyTorch's own,
    with one scale for each row in 8 bits. A matrix whose columns are no multiple of 32 takes 8 bits by rows, and stays
    as it is if its sizes are no multiple of 16. Embeddings, norms, routers, and the stacked experts of a mixture stay,
    too: a tied output matrix is separated from its embedding. Raises a UsageError for another kind or device.
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
    """A layer whose weight is rounded to blocks."""
    blocks = Blocks(kind, *weight.shape)
    for first in range(0, len(weight), ROWS):
        rows = weight[first : first + ROWS]
        blocks.fill(four_bits(rows) if kind == "Q4_1" else eight_bits(rows), first)
    return BlockLinear(blocks, bias, wide=is_wide(name))


def is_wide(name: str) -> bool:
    """Whether a matrix multiplies what keeps 16 bits: those in which 8 bits cost the most (docs/experiments.md)."""
    return name == "output" or name.endswith(WIDE)


def is_quantised(model: Transformer) -> bool:
    """Whether any matrix is packed."""
    return any(isinstance(module, (BlockLinear, Int4Linear, Int8Linear)) for module in model.modules())


def linears(model: Transformer) -> list[tuple[str, nn.Linear]]:
    """The matrices that are quantised, by name. A router is small, and what it chooses should stay.

    One with hooks, or of a subclass, stays as it is: what would take its place does not do the same.
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
    """Put a module in the place of a matrix."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
    if name == "output":
        model.tie_embeddings = False
