"""Quantize a model's matrices to 8 or 4 bits in place."""

from __future__ import annotations

from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from luthier.errors import UsageError
from luthier.model.overrides import must_be_called
from luthier.model.transformer import Transformer
from luthier.native.blocks import BlockLinear, Blocks, quantize_q4_1, quantize_q8_0
from luthier.native.build import has_library
from luthier.quantize.linear import GROUP, LANES, Int4Linear, Int8Linear

Kind = Literal["int8", "int4"]
WIDE_SUFFIXES = ("attention.query", "attention.key", "attention.value")
ROWS_PER_CHUNK = 4096  # rows of a matrix quantized at once
MULTIPLE = 16  # rows and columns required by the products with packed weights


@torch.no_grad()
def quantize(model: Transformer, kind: Kind) -> Transformer:
    """Replace every `nn.Linear` of a model on the CPU by an 8- or 4-bit layer, in place, for inference only.

    "int8": GGUF's Q8_0, a scale for each 32 weights. "int4": Q4_1, a scale and a minimum for each 32; the output matrix
    has 8 bits, since its errors affect every token. Without the compiled library, PyTorch's kernels are used, in 8 bits
    with one scale per row. A matrix whose columns are not a multiple of 32 is quantized to 8 bits by rows, and left
    unchanged if its sizes are not multiples of 16. Embeddings, norms, routers and stacked experts are left unchanged; a
    tied output matrix is separated from the embedding. Returns the model. Raises a UsageError for another kind or
    device.
    """
    if kind not in get_args(Kind):
        raise UsageError(f"quantize '{kind}' is not supported; there are {', '.join(get_args(Kind))}")
    if model.device.type != "cpu":
        raise UsageError(f"quantize {kind} is for the CPU, and the model is on {model.device}")
    for name, linear in linears(model):
        bias = None if linear.bias is None else linear.bias.detach()
        few = kind == "int4" and name != "output"
        if has_library() and linear.in_features % GROUP == 0:
            replace(model, name, block_linear(name, linear.weight, bias, "Q4_1" if few else "Q8_0"))
        elif (four := few and fits(linear, four=True)) or fits(linear, four=False):
            replace(model, name, (Int4Linear if four else Int8Linear).from_weight(linear.weight, bias))
    return model.eval()


def block_linear(name: str, weight: Tensor, bias: Tensor | None, kind: str) -> BlockLinear:
    """A linear layer with its weight quantized to a block format."""
    blocks = Blocks(kind, *weight.shape)
    for first in range(0, len(weight), ROWS_PER_CHUNK):
        rows = weight[first : first + ROWS_PER_CHUNK]
        blocks.pack_rows(quantize_q4_1(rows) if kind == "Q4_1" else quantize_q8_0(rows), first)
    return BlockLinear(blocks, bias, wide=is_wide(name))


def is_wide(name: str) -> bool:
    """Whether a matrix keeps 16-bit activations: those where 8 bits cost the most accuracy (docs/experiments.md)."""
    return name == "output" or name.endswith(WIDE_SUFFIXES)


def is_quantized(model: Transformer) -> bool:
    """Whether any matrix is quantized."""
    return any(isinstance(module, (BlockLinear, Int4Linear, Int8Linear)) for module in model.modules())


def linears(model: Transformer) -> list[tuple[str, nn.Linear]]:
    """The linear layers to quantize, by name. Routers are excluded: they are small, and routing should not change.

    A matrix with hooks, or of a subclass, is left unchanged: its replacement would not behave the same.
    """
    return [
        (name, cast("nn.Linear", module))
        for name, module in model.named_modules()
        if not must_be_called(module, nn.Linear)
    ]


def fits(linear: nn.Linear, *, four: bool) -> bool:
    """Whether PyTorch's kernel supports a matrix's sizes. four: in int4, otherwise in int8."""
    columns, rows = (GROUP, LANES) if four else (MULTIPLE, MULTIPLE)
    return linear.in_features % columns == 0 and linear.out_features % rows == 0


def replace(model: Transformer, name: str, module: nn.Module) -> None:
    """Replace a linear layer by another module. Replacing the output matrix unties it."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
    if name == "output":
        model.tie_embeddings = False
