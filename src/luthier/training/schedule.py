"""Learning-rate schedules: linear warmup, then constant, cosine, linear or warmup-stable-decay."""

from __future__ import annotations

import math
from typing import NamedTuple

from luthier.training.settings import Settings


class Anchor(NamedTuple):
    """Where the schedule `continue` begins: a step, and the factor of the learning rate there."""

    step: int
    factor: float


def warmup_steps(settings: Settings, total: int) -> int:
    """Number of warmup steps: settings.warmup itself, or that fraction of the run if below 1."""
    return round(settings.warmup * total) if settings.warmup < 1 else round(settings.warmup)


def learning_rate_factor(settings: Settings, step: int, total: int, anchor: Anchor | None = None) -> float:
    """Factor on the peak learning rate at `step`, counted from 0, of `total`. Between 0 and 1.

    anchor: with the schedule `continue`, where the linear decay begins; its factor exceeds 1 if the peak was lowered.
    """
    final = settings.final_lr_fraction
    if settings.schedule == "continue" and anchor is not None:
        left = (total - 1 - step) / max(1, total - anchor.step)  # 0 at the last step
        return min(final, anchor.factor) + max(0.0, anchor.factor - final) * max(0.0, left)
    warmup = warmup_steps(settings, total)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, total - 1 - warmup)  # 0 at the peak, 1 at the last step
    if settings.schedule == "cosine":  # arXiv 1608.03983
        return final + (1 - final) * (1 + math.cos(math.pi * min(done, 1.0))) / 2
    if settings.schedule in ("linear", "continue"):
        return final + (1 - final) * max(0.0, 1 - done)
    if settings.schedule == "wsd":  # arXiv 2404.06395
        falling = max(1.0, min(settings.decay * total, total - 1 - warmup))  # steps; does not overlap the warmup
        left = (total - 1 - step) / falling
        return final + (1 - final) * min(1.0, left)
    return 1.0
