"""Training curves and learning-rate schedules."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from luthier.figures.models import Models
from luthier.figures.picture import COLORS, DASHES, Picture, canvas, finish, tidy
from luthier.pages.numbers import perplexity
from luthier.run.pictures import losses_figure
from luthier.training.schedule import learning_rate_factor
from luthier.training.settings import Settings

STEPS = 1000
SCHEDULES: tuple[Literal["constant", "cosine", "linear", "wsd"], ...] = ("constant", "cosine", "linear", "wsd")


def training(models: Models) -> Picture:
    """Loss and perplexity of a real run."""
    evaluations = models.evaluations
    columns = ("step", "epoch", "tokens", "train_loss", "validation_loss")
    table = {name: [evaluation.get(name) for evaluation in evaluations] for name in columns}
    for kind in ("train", "validation"):
        losses = table[f"{kind}_loss"]
        table[f"{kind}_perplexity"] = [None if loss is None else perplexity(loss) for loss in losses]
    caption = (
        "The loss falls as the model learns to predict the next token; perplexity, its exponential, is the number of "
        "equally likely tokens with the same uncertainty; where validation diverges from training, the model overfits."
    )
    return finish("training", "A training run", caption, losses_figure(evaluations), table)


def schedules(models: Models) -> Picture:
    """Learning rate by step for each schedule."""
    base = Settings(steps=STEPS, warmup=0.05, learning_rate=1e-3)
    steps = list(range(STEPS))
    rates: dict[str, list[float]] = {}
    for name in SCHEDULES:
        settings = replace(base, schedule=name)
        rates[name] = [settings.learning_rate * learning_rate_factor(settings, step, STEPS) for step in steps]
    figure = canvas(8, 4.2)
    axes = figure.subplots()
    for number, (schedule, values) in enumerate(rates.items()):
        label = "wsd (warmup, stable, decay)" if schedule == "wsd" else schedule
        axes.plot(steps, values, color=COLORS[number], ls=DASHES[number], lw=2, label=label)
    tidy(axes, "step", "learning rate")
    axes.legend(frameon=False)
    caption = (
        "After a linear warmup over 5% of the run the learning rate stays, or falls to a tenth: along a cosine, "
        "along a line, or late (wsd, arXiv 2404.06395)."
    )
    return finish("schedules", "Learning-rate schedules", caption, figure, {"step": steps, **rates})
