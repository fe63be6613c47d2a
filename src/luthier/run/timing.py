"""Time of a training step on this machine, measured on random ids."""

from __future__ import annotations

import numpy as np
import torch

from luthier.architectures import registry
from luthier.data.batches import Batch
from luthier.run.plan import Plan
from luthier.training.loop import Trainer

TIMED = 4  # steps, the first of which prepares
LONGEST = 30.0  # seconds given to timing


class RandomIds:
    """Batches of random ids in the shape of a plan."""

    epoch, batches_per_epoch = 0.0, 1

    def __init__(self, plan: Plan) -> None:
        generator = torch.Generator().manual_seed(0)
        shape = (plan.settings.batch_size, plan.model.context_length + 1)
        ids = torch.randint(plan.model.vocab_size, shape, generator=generator)
        self.batch = Batch(ids[:, :-1], ids[:, 1:])

    def next_batch(self) -> Batch:
        """The same batch each time."""
        return self.batch

    def state(self) -> dict[str, int]:
        """Nothing to keep."""
        return {"batches": 0}

    def restore(self, state: dict[str, int]) -> None:
        """Nothing to restore."""


def time_steps(plan: Plan, device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of one batch (forward, backward and optimizer), the minimum of a few."""
    trainer = Trainer(registry.build(plan.model, device=device), RandomIds(plan), plan.settings, TIMED, dtype)
    times = [trainer.train_step().seconds]
    while len(times) < TIMED and sum(times) + times[-1] < LONGEST:
        times.append(trainer.train_step().seconds)
    return float(np.min(times))
