"""Effect of residual connections: gradients by layer, without and with them.

Shapes: T tokens, C dim.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luthier.architectures import registry
from luthier.figures.models import TEXT, Models
from luthier.figures.picture import BLUE, ORANGE, Picture, canvas, finish, plain_log, tidy
from luthier.model.transformer import Block, Transformer

COURSE = (3, 3, 3, 3, 3, 1)  # the widths of the course's five layers
SEED = 123  # the course's
KINDS = ("without", "with")
CAPTION = (
    "Without residual connections the course's first layers get almost no gradient, and a newly initialized GPT-2, "
    "whose norms preserve gradients even so, makes all tokens more similar with each block (arXiv 2103.03404)."
)


def course_gradients(*, shortcuts: bool) -> list[float]:
    """Mean absolute gradient of the weights of each of the course's five GELU layers."""
    with torch.random.fork_rng(devices=[]):  # the course draws its weights from torch's global generator
        torch.manual_seed(SEED)
        layers = [nn.Linear(a, b) for a, b in pairwise(COURSE)]
    x = torch.tensor([[1.0, 0.0, -1.0]])
    for layer in layers:
        out = F.gelu(layer(x), approximate="tanh")
        x = x + out if shortcuts and out.shape == x.shape else out
    gradients = torch.autograd.grad(F.mse_loss(x, torch.zeros_like(x)), [layer.weight for layer in layers])
    return [float(gradient.abs().mean()) for gradient in gradients]


@contextmanager
def without_shortcuts(model: Transformer) -> Iterator[None]:
    """Within the context, disable residual connections: hooks subtract the stream from each sublayer's output."""
    handles = [handle for block in model.layers for handle in cut(block)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def cut(block: Block) -> list[torch.utils.hooks.RemovableHandle]:
    """Hooks on one block. Norm inputs are the residual stream; dropout outputs are what is added to it."""
    handles = []
    for norm, last in (
        (block.attention_norm, block.attention_dropout),
        (block.feed_forward_norm, block.feed_forward_dropout),
    ):
        stream: list[Tensor] = []
        handles.append(norm.register_forward_pre_hook(lambda _, given, stream=stream: stream.append(given[0])))
        handles.append(last.register_forward_hook(lambda _, given, out, stream=stream: out - stream.pop()))
    return handles


@dataclass(frozen=True)
class Measured:
    """Measurements of each block of a GPT-2, from the first."""

    gradients: list[float]  # mean absolute gradient of all its weights
    alike: list[float]  # mean cosine similarity between its outputs for different tokens


def measure_gpt2(*, shortcuts: bool, n_layers: int = 12, dim: int = 192) -> Measured:
    """Gradients of a newly initialized GPT-2 on the bytes of a text."""
    config = registry.preset(
        "gpt2-124m", vocab_size=256, context_length=128, dim=dim, n_layers=n_layers, n_heads=6, dropout=0.0
    )
    model = registry.build(config, seed=SEED, dtype=torch.float64)
    ids = torch.tensor([list(TEXT.encode())])
    given: list[Tensor] = []
    handles = [block.register_forward_hook(lambda _, x, out: given.append(out.detach()[0])) for block in model.layers]
    with nullcontext() if shortcuts else without_shortcuts(model):
        logits = model(ids)
    for handle in handles:
        handle.remove()
    F.cross_entropy(logits[0, :-1], ids[0, 1:]).backward()  # type: ignore[no-untyped-call]
    gradients = [
        torch.cat([weight.grad.flatten() for weight in block.parameters() if weight.grad is not None])
        for block in model.layers
    ]
    return Measured([float(gradient.abs().mean()) for gradient in gradients], [mean_cosine(x) for x in given])


def mean_cosine(x: Tensor) -> float:
    """Mean cosine similarity between different rows of (T, C)."""
    unit, count = F.normalize(x, dim=1), len(x)
    return float(((unit @ unit.T).sum() - count) / (count * (count - 1)))


def shortcuts(models: Models) -> Picture:
    """Gradients by layer in the course's five layers and in a 12-block GPT-2, and the similarity of its tokens."""
    course = {kind: course_gradients(shortcuts=kind == "with") for kind in KINDS}
    gpt2 = {kind: measure_gpt2(shortcuts=kind == "with") for kind in KINDS}
    panels = [
        ("five layers", "mean |gradient| of the weights", course),
        ("GPT-2", "mean |gradient| of the weights", {kind: gpt2[kind].gradients for kind in KINDS}),
        ("GPT-2", "mean cosine between tokens", {kind: gpt2[kind].alike for kind in KINDS}),
    ]
    titles = (
        "gradients: the course's five layers",
        "gradients: a GPT-2 of 12 blocks",
        "its tokens: how alike they are",
    )
    figure = canvas(13, 4.2)
    for axes, (network, measure, rows), title in zip(figure.subplots(1, 3), panels, titles, strict=True):
        for kind, color, style in zip(KINDS, (ORANGE, BLUE), ("s--", "o-"), strict=True):
            places = range(1, len(rows[kind]) + 1)
            axes.plot(places, rows[kind], style, color=color, label=f"{kind} shortcuts")
            axes.set_xticks(places)
        tidy(axes, "layer" if network == "five layers" else "block", measure, title)
        if "gradient" in measure:
            plain_log(axes)
        axes.legend(frameon=False)
    table: dict[str, list[object]] = {"network": [], "shortcuts": [], "layer": [], "measure": [], "value": []}
    for network, measure, rows in panels:
        for kind, values in rows.items():
            for layer, value in enumerate(values, 1):
                for column, item in zip(table.values(), (network, kind, layer, measure, value), strict=True):
                    column.append(item)
    return finish("shortcuts", "Without and with shortcuts", CAPTION, figure, table)
