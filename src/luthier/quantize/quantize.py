"""Putting a model's matrices into 8 or 4 bits, where they are."""

from __future__ import annotations

from typing import Literal, cast, get_args

import torch
from torch import nn

from luthier.errors import UsageError
from luthier.model.overrides import must_be_called
from luthier.model.transformer import Transformer
from luthier.quantize.linear import GROUP, LANES, Int4Linear, Int8Linear

Kind = Literal["int8", "int4"]
MULTIPLE = 16  # rows and columns that the products with packed weights want


@torch.no_grad()
def quantize(model: Transformer, kind: Kind) -> Transformer:
    """Replace every `nn.Linear` of a model on the CPU by one of 8 or 4 bits. Returns the same model, to be read only.

    "int8": one scale for each row of a matrix. "int4": one scale and zero for each 32 weights; the output matrix takes
    8 bits, since its errors reach every token. A matrix whose columns are no multiple of 32, or its rows none of 64,
    takes 8 bits, and stays as it is if they are none of 16. Embeddings, norms, routers, and the stacked experts of a
    mixture stay, too: a tied output matrix parts from its embedding. Raises a UsageError for another kind, or another
    device.
    """
    if kind not in get_args(Kind):
        raise UsageError(f"quantize '{kind}' is not to be had; there are {', '.join(get_args(Kind))}")
    if model.embedding.weight.device.type != "cpu":
        raise UsageError(f"quantize {kind} is for the CPU, and the model is on {model.embedding.weight.device}")
    for name, linear in linears(model):
        four = kind == "int4" and name != "output" and fits(linear, four=True)
        if four or fits(linear, four=False):
            bias = None if linear.bias is None else linear.bias.detach()
            replace(model, name, (Int4Linear if four else Int8Linear).of(linear.weight, bias))
    return model.eval()


def is_quantised(model: Transformer) -> bool:
    """Whether any matrix is packed."""
    return any(isinstance(module, (Int4Linear, Int8Linear)) for module in model.modules())


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
