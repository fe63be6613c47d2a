"""Results of an ablation study: trainings of variants, and how they differ."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

DATA = b'{\n "study"'  # how the data beside a page begins
# two-sided 95% quantiles of Student's t, by degrees of freedom
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Evaluation:
    """An evaluation on validation text."""

    step: int
    tokens: int
    loss: float  # nats per token


@dataclass(frozen=True)
class Training:
    """One variant trained with one seed at one learning rate."""

    variant: str
    seed: int
    learning_rate: float
    parameters: int
    active_parameters: int
    flops: float  # of the training
    cache_bytes: int  # of keys and values, per token, in float32
    tokens_per_second: float
    evaluations: list[Evaluation]

    @property
    def loss(self) -> float:
        """The validation loss at the end."""
        return self.evaluations[-1].loss


def mean_and_error(values: Sequence[float]) -> tuple[float | None, float | None]:
    """(mean, standard error of the mean); None where there are too few values."""
    if not values:
        return None, None
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return statistics.fmean(values), error


def gains(before: Sequence[Training], found: Sequence[Training]) -> list[float]:
    """How much lower the loss is than that of another variant, seed by seed, in nats."""
    losses = {training.seed: training.loss for training in before}
    return [losses[training.seed] - training.loss for training in found if training.seed in losses]


def verdict(values: Sequence[float]) -> str:
    """Whether gains differ from 0: "better", "worse" or "no difference" (paired t test, 5%), or that one cannot say."""
    mean, error = mean_and_error(values)
    if mean is None:
        return ""
    if error is None:
        return "unknown: one seed"
    freedom = len(values) - 1
    bound = STUDENT[freedom - 1] if freedom <= len(STUDENT) else 1.96 + 2.6 / freedom
    if abs(mean) <= bound * error:
        return "no difference"
    return "better" if mean > 0 else "worse"
