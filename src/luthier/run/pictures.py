"""The curves of a run, as in its losses.png: loss over epochs with a second axis of tokens, and perplexity."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.files.atomic_file import replacing_file
from luthier.pages.numbers import perplexity
from luthier.terminal.characters import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRAIN, VALIDATION, INK = "#0072B2", "#D55E00", "#333333"  # told apart by color-blind eyes (Okabe and Ito)


def draw_losses(evaluations: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """Draw the curves of a run into a PNG file. evaluations: the records of metrics.jsonl."""
    figure = losses_figure(evaluations)
    figure.suptitle(one_line(title), color=INK, parse_math=False)
    with replacing_file(path, begins=b"\x89PNG") as part, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a run may be named in letters that no font here has
        figure.savefig(part, format="png", dpi=130)


def losses_figure(evaluations: Sequence[dict[str, Any]]) -> Figure:
    """The curves, without a title."""
    from luthier.run.notebook_figure import NotebookFigure  # slow to import: matplotlib

    epochs = [each["epoch"] for each in evaluations]
    tokens = [each["tokens"] for each in evaluations]
    held_out = [each for each in evaluations if each.get("validation_loss") is not None]
    figure = NotebookFigure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, key, label in ((left, "loss", "loss (nats per token)"), (right, "perplexity", "perplexity")):
        shown = (lambda loss: loss) if key == "loss" else perplexity
        axes.plot(epochs, [shown(each["train_loss"]) for each in evaluations], color=TRAIN, label="training")
        axes.plot(
            [each["epoch"] for each in held_out], [shown(each["validation_loss"]) for each in held_out],
            color=VALIDATION, linestyle="--", label="validation",
        )  # fmt: skip
        axes.set(xlabel="epochs", ylabel=label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    right.set_yscale("log")
    per_epoch = tokens[-1] / epochs[-1] if epochs and epochs[-1] else 0
    if per_epoch:
        above = left.secondary_xaxis("top", functions=(lambda e: e * per_epoch, lambda t: t / per_epoch))
        above.set_xlabel("tokens seen")
        above.xaxis.set_major_formatter(lambda value, _: short(value))
    if held_out:
        best = min(held_out, key=lambda each: float(each["validation_loss"]))
        left.plot(best["epoch"], best["validation_loss"], "o", color=VALIDATION)
        left.annotate(
            f"best {best['validation_loss']:.3f}", (best["epoch"], best["validation_loss"]), xytext=(0, 9),
            textcoords="offset points", ha="center", color=INK,
        )  # fmt: skip
    return figure


def short(value: float) -> str:
    """Format a large number: 1.2M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
