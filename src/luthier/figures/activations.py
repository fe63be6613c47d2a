"""Activation functions of the feed-forward layers, computed by the layers themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from luthier.figures.models import Models
from luthier.figures.picture import BLUE, COLORS, DASHES, DIVERGING, ORANGE, Picture, canvas, finish, matrix, tidy
from luthier.model.feed_forward import FeedForward, SwiGLU

POINTS = 401


def bare_gelu() -> FeedForward:
    """GPT-2's feed-forward layer of width 1, with weights 1 and biases 0: computes GELU."""
    layer = FeedForward(1, 1).double()
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            weight.fill_(1.0 if name.endswith("weight") else 0.0)
    return layer


def bare_swiglu() -> SwiGLU:
    """Llama's feed-forward layer with one gate and one value: from (gate, value) to (out, 0)."""
    layer = SwiGLU(2, 1).double()
    with torch.no_grad():
        layer.gate.weight.copy_(torch.tensor([[1.0, 0.0]]))
        layer.up.weight.copy_(torch.tensor([[0.0, 1.0]]))
        layer.down.weight.copy_(torch.tensor([[1.0], [0.0]]))
    return layer


def gelu(models: Models) -> Picture:
    """GELU and ReLU, with their derivatives by autograd."""
    x = torch.linspace(-4, 4, POINTS, dtype=torch.float64)
    columns: dict[str, list[float]] = {"x": x.tolist()}
    layer = bare_gelu()
    for name, function in (("gelu", lambda x: layer(x[:, None])[:, 0]), ("relu", torch.relu)):
        at = x.clone().requires_grad_()
        y: Tensor = function(at)
        [slope] = torch.autograd.grad(y.sum(), at)
        columns |= {name: y.tolist(), f"{name}_derivative": slope.tolist()}
    figure = canvas(10, 4)
    for axes, ending, title in zip(figure.subplots(1, 2), ("", "_derivative"), ("value", "derivative"), strict=True):
        axes.plot(columns["x"], columns[f"gelu{ending}"], color=BLUE, lw=2, label="GELU")
        axes.plot(columns["x"], columns[f"relu{ending}"], color=ORANGE, lw=2, ls="--", label="ReLU")
        tidy(axes, "x", "d f(x) / d x" if ending else "f(x)", title)
        axes.legend(frameon=False)
    caption = (
        "GELU, as in GPT-2's feed-forward, is smooth and lets a little gradient through where x is below 0; "
        "ReLU's derivative jumps from 0 to 1 (arXiv 1606.08415)."
    )
    return finish("gelu", "GELU beside ReLU", caption, figure, columns)


@torch.no_grad()
def swiglu(models: Models) -> Picture:
    """Output of SwiGLU by gate and value."""
    layer = bare_swiglu()
    gate, value = torch.linspace(-4, 4, 81, dtype=torch.float64), torch.linspace(-2, 2, 41, dtype=torch.float64)
    pairs = torch.cartesian_prod(gate, value)
    out = layer(pairs)[:, 0]
    grid = out.view(len(gate), len(value)).T.flip(0)  # value upwards, gate to the right
    figure = canvas(11, 4)
    left, right = figure.subplots(1, 2)
    for number, at in enumerate((-2, -1, 0, 1, 2)):
        line = layer(torch.stack([gate, torch.full_like(gate, at)], 1))[:, 0]
        left.plot(
            gate, line, color=COLORS[number], ls=DASHES[number], lw=2, label=f"value {at:+d}" if at else "value 0"
        )
    tidy(left, "gate", "out = silu(gate) · value", "for five values (at 1: SiLU itself)")
    left.legend(frameon=False, fontsize=8)
    largest = float(grid.abs().max())
    matrix(figure, right, grid, "out", cmap=DIVERGING, vmin=-largest, vmax=largest, extent=(-4, 4, -2, 2))
    right.set(xlabel="gate", ylabel="value")
    right.set_title("for all", fontsize=10, loc="left")
    caption = (
        "In SwiGLU one projection gates another: an open gate passes the value with its sign, a closed one almost "
        "nothing (arXiv 2002.05202)."
    )
    table = {"gate": pairs[:, 0].tolist(), "value": pairs[:, 1].tolist(), "out": out.tolist()}
    return finish("swiglu", "SwiGLU: a gate and a value", caption, figure, table)
