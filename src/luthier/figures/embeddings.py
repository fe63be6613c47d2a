"""Token embeddings of a trained model in two dimensions. Shapes: V vocab_size, C dim."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.patheffects import withStroke
from torch import Tensor

from luthier.figures.models import Models
from luthier.figures.picture import COLORS, Picture, canvas, finish, label, tidy
from luthier.tokenizers.core.tokenizer import Tokenizer

MAX_TOKENS = 4000  # tokens: more would be illegible
NAMED = 45
KINDS = ("begins a word", "goes on with a word", "number", "sign", "byte or mixed")


def kind_of(piece: bytes) -> str:
    """One of KINDS."""
    text = piece.decode("utf-8", "replace")
    bare = text.strip()
    if bare.isalpha() and "\ufffd" not in bare:
        return KINDS[0] if text[0] in " ▁" or bare[0].isupper() else KINDS[1]
    if bare.isdigit():
        return KINDS[2]
    return KINDS[3] if bare and bare.isprintable() and bare.isascii() else KINDS[4]


@torch.no_grad()
def two_dimensions(vectors: Tensor) -> tuple[Tensor, list[float]]:
    """The first two principal components, (V, C) -> (V, 2), and each one's share of the variance."""
    centered = vectors.double() - vectors.double().mean(0)
    values, directions = torch.linalg.eigh(centered.T @ centered)  # ascending
    best = directions[:, [-1, -2]]
    best = best * best.gather(0, best.abs().argmax(0, keepdim=True)).sign()  # a component's sign is arbitrary: fix it
    return centered @ best, (values[[-1, -2]] / values.sum()).tolist()


def pieces(tokenizer: Tokenizer, count: int) -> list[bytes]:
    """The bytes of the first tokens."""
    return [tokenizer.piece(token) for token in range(min(count, tokenizer.vocab_size))]


def apart(places: Tensor, rows: list[int]) -> list[int]:
    """The first NAMED rows whose labels would not overlap."""
    room = (places.amax(0) - places.amin(0)) * torch.tensor([0.06, 0.025])
    named: list[int] = []
    for row in rows:
        if len(named) < NAMED and all(bool(((places[row] - places[other]).abs() > room).any()) for other in named):
            named.append(row)
    return named


def embeddings(models: Models) -> Picture:
    """PCA of the embedding table."""
    lm = models.lm
    names = pieces(lm.tokenizer, MAX_TOKENS)
    places, shares = two_dimensions(lm.model.embedding.weight[: len(names)].float())
    kinds = [kind_of(piece) for piece in names]
    figure = canvas(10, 6.5)
    axes = figure.subplots()
    for number, kind in enumerate(KINDS):
        rows = [row for row, found in enumerate(kinds) if found == kind]
        if rows:
            axes.plot(
                places[rows, 0],
                places[rows, 1],
                "os^Dx"[number],
                ms=4,
                alpha=0.7,
                color=COLORS[number],
                label=f"{kind} ({len(rows)})",
            )
    words = [row for row, kind in enumerate(kinds) if kind == KINDS[0] and len(names[row]) > 2]
    for row in apart(places, words):
        axes.annotate(
            label(names[row]).strip("·▁"),
            (float(places[row, 0]), float(places[row, 1])),
            xytext=(3, 3),
            textcoords="offset points",
            fontsize=7,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )
    tidy(axes, f"first component ({shares[0]:.0%} of the variance)", f"second component ({shares[1]:.0%})")
    axes.legend(frameon=False, fontsize=8)
    caption = (
        f"The embeddings of {len(names):,} tokens of a trained model along the two directions in which they differ "
        "most (PCA): tokens with similar use are close together."
    )
    table: dict[str, Sequence[object]] = {
        "id": list(range(len(names))), "token": [label(piece) for piece in names], "kind": kinds,
        "first": places[:, 0].tolist(), "second": places[:, 1].tolist(),
    }  # fmt: skip
    return finish("embeddings", "Token embeddings in two dimensions", caption, figure, table)
