"""The default length of a run: about three minutes on this machine, from a few timed steps.

Version 0.1 passed over the text once, which is four steps for a short story and hours for a large corpus.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from luthier.errors import setting
from luthier.memory import total_memory
from luthier.run.cost import estimate
from luthier.run.plan import Plan
from luthier.run.timing import time_steps
from luthier.run.token_splits import TokenSplits
from luthier.terminal.durations import duration
from luthier.training.machine import has_fast_bfloat16
from luthier.training.settings import Settings

SECONDS = 180.0
MOST_EPOCHS = 100  # passes over a text: a model overfits a short one long before (docs/experiments.md)
FEWEST = 50  # steps, with which a model that is large for its machine learns at least what letters are frequent
EVALUATIONS = 20  # in a run whose settings do not say how often
FORWARD = 1 / 3  # of the time of a step, which goes backward too


@dataclass(frozen=True)
class Length:
    """Number of steps of a run, with its estimated time and epochs."""

    steps: int
    seconds: float  # estimated, with the evaluations
    epochs: float
    epoch_steps: int

    def text(self) -> str:
        """A message that also says how to choose another length."""
        passes = f"{self.epochs:,.1f} passes" if self.epochs >= 1 else f"{self.epochs:.1%}"
        return (
            f"{self.steps:,} steps, about {duration(self.seconds)} here and {passes} of the text, as "
            f"neither {setting('steps')} "
            f"nor {setting('epochs')} is given ({setting('epochs', 1)} is {self.epoch_steps:,} steps)"
        )


@dataclass(frozen=True)
class Amount:
    """Amount of text, in steps."""

    epoch_steps: float  # that see it once
    evaluation_steps: float  # whose rows an evaluation has


def amount_of(settings: Settings, context_length: int, text: TokenSplits) -> Amount:
    """Measure a text in steps."""
    batches = text.training_batches(settings, context_length)
    rows = settings.batch_size * settings.gradient_accumulation_steps
    wanted = (settings.eval_batches or 8) * rows
    windows = [-(-len(tokens) // context_length) for tokens in (text.train, text.validation) if tokens is not None]
    return Amount(
        batches.batches_per_epoch / settings.gradient_accumulation_steps, sum(min(wanted, n) for n in windows) / rows
    )


def is_open(settings: Settings) -> bool:
    """Whether the settings leave the length open."""
    return not settings.steps and not settings.epochs


def choose_length(plan: Plan, amount: Amount, device: torch.device) -> Length | None:
    """Choose a length from timed steps; None for a model that does not fit into this machine's memory."""
    memory = total_memory(device)
    if memory and estimate(plan).memory > 0.8 * memory:
        return None
    settings = plan.settings
    low = settings.precision == "bfloat16" or (settings.precision == "auto" and has_fast_bfloat16(device))
    seconds = time_steps(plan, device, torch.bfloat16 if low else torch.float32)
    return length_of(settings, seconds * settings.gradient_accumulation_steps, amount)


def length_of(settings: Settings, step: float, amount: Amount) -> Length:
    """Length of a run whose steps take `step` seconds each."""
    most = max(1, math.ceil(MOST_EPOCHS * amount.epoch_steps))
    evaluation = amount.evaluation_steps * FORWARD * step
    if settings.eval_interval:
        step, evaluation = step + evaluation / settings.eval_interval, 0.0
    steps = int((SECONDS - EVALUATIONS * evaluation) / step) if step else most
    steps = min(max(steps, FEWEST), most)
    seconds = steps * step + min(EVALUATIONS, steps) * evaluation
    return Length(steps, seconds, steps / amount.epoch_steps, max(1, math.ceil(amount.epoch_steps - 1e-6)))


def with_length(plan: Plan, length: Length | None) -> Plan:
    """The plan with a length; one pass over the text where none could be chosen."""
    if length is None:
        return replace(plan, settings=replace(plan.settings, epochs=1.0))
    return replace(plan, settings=replace(plan.settings, steps=length.steps))
