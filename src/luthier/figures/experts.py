"""Expert routing of a mixture of experts. Shapes: T tokens, E experts, L mixture layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.colors import ListedColormap
from torch import Tensor

from luthier.figures.models import LONGER, Models
from luthier.figures.picture import SEQUENTIAL, Picture, canvas, finish, label, matrix, name_ticks
from luthier.language_model import LanguageModel
from luthier.model.moe import MoE

SHOWN = 26  # tokens
# Okabe and Ito's colors, light enough for black digits
PALE = ("#56B4E9", "#E69F00", "#33B893", "#F0E442", "#CC79A7", "#B8B8B8", "#F28E50", "#8FA8E0")


@torch.no_grad()
def routes(lm: LanguageModel, ids: list[int]) -> tuple[list[int], Tensor]:
    """Indices of the mixture layers, from 1, and the first expert of each token in each, (L, T)."""
    caught: list[Tensor] = []
    mixed = [
        (n, block.feed_forward) for n, block in enumerate(lm.model.layers, 1) if isinstance(block.feed_forward, MoE)
    ]
    handles = [
        part.routing.register_forward_hook(lambda _, inputs, routing: caught.append(routing.chosen[:, 0]))
        for _, part in mixed
    ]
    try:
        lm.model(torch.tensor([ids]))
    finally:
        for handle in handles:
            handle.remove()
    return [number for number, _ in mixed], torch.stack(caught)


def experts(models: Models) -> Picture:
    """The expert of each token in each layer, and the load of each expert."""
    lm = models.with_experts
    n_experts = next(part.n_experts for part in lm.model.modules() if isinstance(part, MoE))
    ids = models.ids(lm, 512, models.text + LONGER)
    layers, chosen = routes(lm, ids)
    names = [label(lm.tokenizer.piece(token)) for token in ids]
    loads = torch.stack([torch.bincount(row, minlength=n_experts) for row in chosen]) / len(ids)  # (L, E)
    figure = canvas(12, 1.6 + 0.5 * len(layers) + 1.6)
    left, right = figure.subplots(1, 2, width_ratios=(3, 1))
    few = n_experts <= len(PALE)
    left.imshow(
        chosen[:, :SHOWN].numpy(), aspect="auto", vmin=0, vmax=n_experts - 1,
        cmap=ListedColormap(PALE[:n_experts]) if few else SEQUENTIAL,
    )  # fmt: skip
    for row in range(len(layers)):
        for column in range(min(SHOWN, len(ids))):
            left.text(
                column, row, str(int(chosen[row, column]) + 1), ha="center", va="center", fontsize=8, color="black"
            )
    rows = [f"layer {number}" for number in layers]
    name_ticks(left, names[:SHOWN], rows)
    left.set(xlabel="token")
    left.set_title(f"the expert (1 to {n_experts}) of each token", fontsize=10, loc="left")
    matrix(figure, right, loads * n_experts, "load, mean = 1", vmin=0)
    name_ticks(right, [str(number + 1) for number in range(n_experts)], rows)
    right.set(xlabel="expert")
    right.set_title(f"load over {len(ids)} tokens", fontsize=10, loc="left")
    caption = (
        "In each MoE layer a router sends every token to an expert; with load balancing in training, the load of all "
        "experts is near its mean over long texts, and may be uneven over a few words."
    )
    table: dict[str, Sequence[object]] = {"token": range(len(ids)), "text": names} | {
        f"layer_{number}": (row + 1).tolist() for number, row in zip(layers, chosen, strict=True)
    }
    return finish("experts", "Expert routing", caption, figure, table)
