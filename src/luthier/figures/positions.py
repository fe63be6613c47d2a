"""Position encodings: sinusoidal, learned, rotary. Shapes: T positions, C dim, D head_dim."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.figures.models import Models
from luthier.figures.picture import DIVERGING, Picture, canvas, finish, matrix
from luthier.model.context import AttentionContext
from luthier.model.rope import Rope

T, C = 64, 64


def sinusoidal(n_positions: int, dim: int) -> Tensor:
    """The fixed table of arXiv 1706.03762, (T, C): sines in even columns, cosines in odd ones."""
    angles = torch.arange(n_positions)[:, None] / 10_000 ** (torch.arange(0, dim, 2) / dim)  # (T, C/2)
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


def rotary(n_positions: int, dim: int) -> tuple[Tensor, Tensor]:
    """A vector of ones rotated to each position, (T, D), and the scores between all such queries and keys, (T, T)."""
    ones = torch.ones(1, 1, n_positions, dim)
    rope, positions = Rope(dim), torch.arange(n_positions)[None]
    turned, keys = rope(ones, ones, AttentionContext(positions, rope.angles(positions), None, 0))
    return turned[0, 0], (turned @ keys.transpose(2, 3))[0, 0] / dim


def likeness(table: Tensor) -> Tensor:
    """Cosine similarity between all rows, (T, C) -> (T, T)."""
    unit = F.normalize(table, dim=1)
    return unit @ unit.T


@torch.no_grad()
def positions(models: Models) -> Picture:
    """The three encodings, and the similarity of positions under each."""
    lm = models.with_positions
    learned_table = lm.model.position_embedding
    assert learned_table is not None
    learned = learned_table.weight[:T].float()
    fixed = sinusoidal(T, C)
    turned, scores = rotary(T, C)
    near = (likeness(fixed), likeness(learned), scores)
    figure = canvas(12, 7)
    axes = figure.subplots(2, 3)
    titles = ("sinusoidal", "learned (a trained GPT-2)", "rotary (a vector of ones, turned)")
    for column, (table, title) in enumerate(zip((fixed, learned, turned), titles, strict=True)):
        largest = float(table.abs().max())
        matrix(figure, axes[0, column], table, "value", cmap=DIVERGING, vmin=-largest, vmax=largest)
        axes[0, column].set(xlabel="dimension", ylabel="position")
        axes[0, column].set_title(title, fontsize=10, loc="left")
        unit = "q · k / D" if column == 2 else "cosine"
        matrix(figure, axes[1, column], near[column], unit, vmin=-1, vmax=1, cmap=DIVERGING)
        axes[1, column].set(xlabel="position", ylabel="position")
    axes[1, 2].set(xlabel="position of the key", ylabel="position of the query")
    caption = (
        "Top: the encodings; bottom: the similarity of two positions; sinusoidal and rotary encodings (arXiv "
        "2104.09864) represent distances from the start, a learned table has to learn them."
    )
    size = min(len(learned), T)
    columns: dict[str, list[float]] = {
        "first": [i for i in range(size) for _ in range(size)], "second": [j for _ in range(size) for j in range(size)],
    }  # fmt: skip
    for name, values in zip(("sinusoidal", "learned", "rotary"), near, strict=True):
        columns[name] = values[:size, :size].flatten().tolist()
    return finish("positions", "Positions: sinusoidal, learned, rotary", caption, figure, columns)
