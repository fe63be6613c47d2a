"""Results of an ablation study: trainings of variants, and how they differ."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

DATA = b'{\n "recipe"'  # how the data beside a page begins


@dataclass(frozen=True)
class Evaluation:
    """An evaluation on validation text."""

    step: int
    tokens: int
    loss: float  # nats per token


@dataclass(frozen=True)
class Training:
    """One variant trained with one seed."""

    variant: str
    seed: int
    hidden_dim: int
    parameters: int
    active_parameters: int
    cache_bytes: int  # of keys and values, per token, in float32
    tokens_per_second: float
    evaluations: list[Evaluation]

    @property
    def loss(self) -> float:
        """The validation loss at the end."""
        return self.evaluations[-1].loss


def spread(found: Sequence[Training]) -> float | None:
    """The standard deviation of the final losses over seeds."""
    return statistics.stdev(training.loss for training in found) if len(found) > 1 else None


def gain(before: Sequence[Training], found: Sequence[Training]) -> tuple[float | None, float | None]:
    """How much lower the loss is than that of the variant before, seed by seed: (mean, standard error), in nats."""
    losses = {training.seed: training.loss for training in before}
    gains = [losses[training.seed] - training.loss for training in found if training.seed in losses]
    if not gains:
        return None, None
    error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else None
    return statistics.fmean(gains), error
