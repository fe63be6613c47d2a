"""Choice of precision and compilation, by timing."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Literal

import torch

from luthier.terminal.durations import duration
from luthier.terminal.printing import say
from luthier.training.compiling import failure, use_own_folders
from luthier.training.loop import Trainer
from luthier.training.machine import has_compiler, has_fast_bfloat16
from luthier.training.settings import Settings

WORTH_TIMING = 50  # steps: a shorter run would spend more on timing than it could win
GAIN = 0.2  # of a step, that compiling saves at least, on CPU and in either type (docs/experiments.md)
COMPILING = 30.0  # seconds, at most, seen here for the three families


def choose_precision(trainer: Trainer, settings: Settings) -> Settings:
    """Settings with `precision` decided: bfloat16 if the machine has hardware for it and a step is faster.

    Weights, generators and the position in the data are unchanged.
    """
    if settings.precision != "auto":
        return settings
    choice: Literal["float32", "bfloat16"] = "bfloat16" if has_fast_bfloat16(trainer.device) else "float32"
    timed = trainer.total_steps >= WORTH_TIMING and trainer.world.size == 1  # several would time each other
    if choice == "bfloat16" and trainer.device.type == "cpu" and timed:
        seconds = {dtype: time_gradients(trainer, dtype) for dtype in (torch.float32, torch.bfloat16)}
        if seconds[torch.float32] < seconds[torch.bfloat16]:
            choice = "float32"
    return replace(settings, precision=choice)


def time_gradients(trainer: Trainer, dtype: torch.dtype) -> float:
    """Seconds of one forward and backward pass over a batch, the better of two."""
    place, trainer.dtype, best = trainer.batches.state(), dtype, float("inf")
    batch = trainer.batches.next_batch().to(trainer.device)
    trainer.batches.restore(place)
    trainer.model.train()
    for _ in range(2):
        start = time.perf_counter()
        trainer.loss(batch).sum.backward()  # type: ignore[no-untyped-call]
        trainer.model.zero_grad()
        best = min(best, time.perf_counter() - start)
    trainer.balancer.forget()
    return best


def choose_compiling(trainer: Trainer, settings: Settings) -> bool:
    """Whether to compile the blocks: as set, or if the rest of the run is long enough to be worth it.

    Decided before the next step, by timing: a run that stops and resumes must not decide in its middle.
    """
    if settings.compile != "auto":
        return settings.compile == "yes"
    left = trainer.total_steps - trainer.step
    if trainer.world.size > 1 or left < WORTH_TIMING:
        return False
    if not has_compiler(trainer.device):
        say("no C++ compiler here: training uncompiled, which is up to a third slower (install g++ or clang)")
        return False
    dtype = torch.bfloat16 if settings.precision == "bfloat16" else torch.float32
    seconds = left * settings.gradient_accumulation_steps * time_gradients(trainer, dtype)
    if seconds * GAIN <= COMPILING * 1.5:
        return False
    say(f"compiling the blocks: {duration(seconds)} of training are ahead")
    return True


def compile_blocks(trainer: Trainer) -> bool:
    """Compile the trainer, if a trial shows that the machine can. Returns whether it did."""
    if not has_compiler(trainer.device):
        say("no C++ compiler here: training uncompiled, which is up to a third slower (install g++ or clang)")
        return False
    try:
        use_own_folders()
        torch.compile(lambda x: x.cos() + 1)(torch.ones(8, device=trainer.device))
    except Exception as error:  # of whatever the compiler lacks: headers, a linker, room for its files
        say(f"training uncompiled: compiling does not work here ({failure(error)})")
        return False
    trainer.compile()
    return True
