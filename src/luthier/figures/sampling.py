"""Sampling the next token: temperature, top-k and top-p applied to a trained model's logits."""

from __future__ import annotations

import torch
from torch import Tensor

from luthier.figures.models import Models
from luthier.figures.picture import BLUE, COLORS, GREEN, ORANGE, Picture, canvas, finish, label, name_ticks, tidy
from luthier.generation.sampling import apply_filters
from luthier.generation.settings import GenerationSettings

TEMPERATURES = (0.1, 1.0, 5.0)
TOP_K, TOP_P = 5, 0.8
WORDS = 8  # tokens of the text in the context


@torch.no_grad()
def next_logits(models: Models) -> Tensor:
    """The logits after the first tokens of the text, (1, V)."""
    lm = models.lm
    ids = models.ids(lm, WORDS)
    logits: Tensor = lm.model(torch.tensor([ids]))
    return logits[:, -1].float()


def most_probable(models: Models, logits: Tensor, count: int) -> tuple[list[int], list[str]]:
    """Ids and labels of the most probable tokens."""
    ids = logits[0].topk(min(count, logits.shape[1])).indices.tolist()
    return ids, [label(models.lm.tokenizer.piece(token)) for token in ids]


def context_text(models: Models) -> str:
    """The text in the context."""
    return models.lm.tokenizer.decode(models.ids(models.lm, WORDS), skip_special=True)


def temperature(models: Models) -> Picture:
    """The same logits at three temperatures."""
    logits = next_logits(models)
    ids, names = most_probable(models, logits, 12)
    rows = {
        f"temperature_{value:g}": apply_filters(logits, GenerationSettings(temperature=value, top_p=None))
        .softmax(-1)[0, ids]
        .tolist()
        for value in TEMPERATURES
    }
    figure = canvas(11, 4.4)
    for axes, scale in zip(figure.subplots(1, 2), ("linear", "log"), strict=True):
        for number, (value, row) in enumerate(zip(TEMPERATURES, rows.values(), strict=True)):
            places = [place + (number - 1) * 0.27 for place in range(len(ids))]
            name, hatch = f"temperature {value:g}", ("", "//", "..")[number]
            axes.bar(places, row, 0.26, color=COLORS[number], hatch=hatch, edgecolor="white", label=name)
        tidy(axes, "next token", "probability", "the same, logarithmic" if scale == "log" else "")
        axes.set_yscale(scale)
        name_ticks(axes, names)
        if scale == "log":
            axes.set_ylim(1e-6, 2)
        else:
            axes.legend(frameon=False)
    caption = (
        f"The 12 most probable tokens after “{shown(context_text(models))}”: logits are divided by the temperature, so "
        "that 0.1 almost always samples the most probable one and 5 makes all nearly equal."
    )
    return finish("temperature", "Temperature", caption, figure, {"token": names, "id": ids, **rows})


def filters(models: Models) -> Picture:
    """One distribution unfiltered, with top-k, and with top-p."""
    logits = next_logits(models)
    ids, names = most_probable(models, logits, 16)
    ways = {
        "all": GenerationSettings(temperature=1, top_p=None),
        "top_k": GenerationSettings(temperature=1, top_k=TOP_K, top_p=None),
        "top_p": GenerationSettings(temperature=1, top_p=TOP_P),
    }
    rows = {name: apply_filters(logits, settings).softmax(-1)[0, ids].tolist() for name, settings in ways.items()}
    figure = canvas(10, 6)
    titles = ("as the model says it", f"top-k, k = {TOP_K}", f"top-p, p = {TOP_P}")
    for axes, (name, row), color, title in zip(
        figure.subplots(3, 1, sharex=True, sharey=True), rows.items(), (BLUE, ORANGE, GREEN), titles, strict=True
    ):
        axes.bar(range(len(ids)), row, 0.8, color=color)
        kept = int((apply_filters(logits, ways[name]) > float("-inf")).sum())
        tidy(
            axes,
            "next token" if name == "top_p" else "",
            "probability",
            f"{title}: {kept:,} of {logits.shape[1]:,} tokens can be drawn",
        )
    name_ticks(axes, names)
    caption = (
        f"After “{shown(context_text(models))}”: top-k keeps the k most probable tokens, top-p the smallest set with "
        "at least probability p, and the kept probabilities are normalized to sum to 1 (arXiv 1904.09751)."
    )
    return finish(
        "filters", "Top-k and top-p on one distribution", caption, figure, {"token": names, "id": ids, **rows}
    )


def shown(text: str) -> str:
    """A text made printable for a caption."""
    return label(text.encode()).replace("·", " ")
