"""Effects of changed settings on a resumed run: on its optimizer, batches, learning rate and speed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from luthier.data.batches import BatchSource
from luthier.errors import setting
from luthier.run import speed
from luthier.run.changes import DECIDED_ANEW, ORDER_OF_BATCHES, differences
from luthier.run.checkpoint_record import Decisions
from luthier.run.plan import Plan
from luthier.terminal.printing import say, warn
from luthier.training.loop import Trainer
from luthier.training.schedule import Anchor, learning_rate_factor

NOTICEABLE = 0.01  # of the learning rate: a smaller change between two steps is not worth a line


def changed_names(before: Plan, now: Plan) -> set[str]:
    """The settings in which two plans differ."""
    return {item.name for item in differences(before, now)}


def adapted(
    tensors: dict[str, Tensor],
    state: dict[str, Any],
    changed: set[str],
    trainer: Trainer,
    batches_before: Callable[[], BatchSource] | None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Adapt the training state of a checkpoint to a trainer whose settings `changed` differ from it.

    batches_before: the batches of the checkpoint; None for another text, whose batches start from the first.
    """
    tensors, state = dict(tensors), dict(state)
    if "optimizer" in changed:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("optimizer.")}
        say(f"the state of {trainer.settings.optimizer} is reset: the run was trained with another optimizer")
    if "seed" in changed:
        tensors["generator"] = trainer.generator.get_state()
    if batches_before is None:
        state["batches"] = trainer.batches.state()
    elif changed & ORDER_OF_BATCHES:
        old = batches_before()
        old.restore(state["batches"])
        together = trainer.settings.gradient_accumulation_steps
        steps = round(old.epoch * trainer.batches.batches_per_epoch / together)
        state["batches"] = {**trainer.batches.state(), "batches": steps * together}
    return tensors, state


def continue_schedule(trainer: Trainer, before: Plan, total_before: int, changed: set[str]) -> None:
    """Anchor the schedule `continue` at the current step, and warn if the learning rate jumps."""
    settings, step = trainer.settings, trainer.step
    if step == 0:
        return
    old, anchor = before.settings, trainer.anchor
    last = old.learning_rate * learning_rate_factor(old, step - 1, total_before, anchor)
    moved = total_before != trainer.total_steps or bool(changed & {"schedule", "learning_rate"})
    if settings.schedule == "continue" and moved:
        trainer.anchor = Anchor(step, last / settings.learning_rate)
    if settings.schedule == "continue":
        return
    due = old.learning_rate * learning_rate_factor(old, min(step, total_before - 1), total_before, anchor)
    following = settings.learning_rate * learning_rate_factor(settings, step, trainer.total_steps, trainer.anchor)
    if abs(following - due) <= NOTICEABLE * due:
        return
    warn(
        f"the learning rate changes from {last:.2e} (step {step}) to {following:.2e} (step {step + 1}): "
        f"{settings.schedule} over {trainer.total_steps:,} steps; {setting('schedule', 'continue')} goes on "
        "from where it is"
    )


def decide(trainer: Trainer, plan: Plan, decided: Decisions | None, changed: set[str]) -> tuple[Plan, bool]:
    """(plan with its precision decided, whether to compile): as before, or anew if settings have changed."""
    plan = replace(plan, settings=speed.choose_precision(trainer, plan.settings))
    asked = plan.settings.compile
    if asked != "auto":
        return plan, asked == "yes"
    if decided is not None and (("compile" not in changed and decided.compiled) or not changed & DECIDED_ANEW):
        return plan, decided.compiled
    return plan, speed.choose_compiling(trainer, plan.settings)


def take_threads(count: int) -> None:
    """Use as many threads as the run did, if there are enough cores: another number may round sums differently."""
    now = torch.get_num_threads()
    if now == count:
        return
    torch.set_num_threads(min(count, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else count))
    taken = torch.get_num_threads()
    why = "as the run did" if taken == count else f"of the {count} that the run had; sums may be rounded differently"
    say(f"resuming with {taken} CPU threads, {why} ({setting('threads', now)} takes those of now)")
