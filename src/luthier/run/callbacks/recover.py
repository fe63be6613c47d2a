"""Recovery from a bad step: a loss or gradient that is NaN or infinite, or a spike of the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from luthier.errors import LuthierError
from luthier.run.callbacks.checkpoint import Checkpoint
from luthier.terminal.printing import warn
from luthier.training.callback import Callback, StepUndoneError
from luthier.training.loop import NonFiniteError, StepResult, Trainer
from luthier.training.settings import Settings
from luthier.training.spikes import SpikeDetector

MOST_FAILURES = 5  # between two checkpoints: more have a cause that no policy removes


class Recover(Callback):
    """Stops, leaves the batches of the bad step out, or goes back to a checkpoint and leaves them out."""

    def __init__(
        self, trainer: Trainer, settings: Settings, checkpoint: Checkpoint, go_back: Callable[[], Path]
    ) -> None:
        """go_back: restores the newest checkpoint and returns its path."""
        self.trainer, self.settings = trainer, settings
        self.checkpoint, self.back_to_checkpoint = checkpoint, go_back
        self.spikes = SpikeDetector()
        self.failures, self.saves = 0, 0  # since the last checkpoint; checkpoints until then

    def after_step(self, result: StepResult) -> None:
        if not self.spikes.sees(result.loss):
            return
        usual = f"under {self.spikes.limit:.3f} is usual"
        what = f"step {self.trainer.step}: the loss {result.loss:.3f} is a spike: {usual}"
        if self.settings.spikes == "log":
            warn(what)
            return
        self.recover(what, self.settings.spikes)
        raise StepUndoneError

    def failed_step(self, error: NonFiniteError) -> None:
        """After a step that left the trainer as it was before: skip its batches, as the settings say, or raise."""
        self.trainer.skip()
        self.recover(str(error), self.settings.non_finite)

    def recover(self, what: str, policy: str) -> None:
        """Go on after the batches of the bad step as the policy says, or raise a NonFiniteError."""
        if self.saves != self.checkpoint.saves:
            self.failures, self.saves = 0, self.checkpoint.saves
        self.failures += 1
        if policy == "stop" or self.failures > MOST_FAILURES:
            raise NonFiniteError(f"{what}. {self.checkpoint.last_good()}")
        if policy == "skip":
            warn(f"{what}. Its batches are skipped")
            return
        try:
            checkpoint = self.back_to_checkpoint()
        except LuthierError as error:
            raise NonFiniteError(f"{what}, and there is no checkpoint to go back to: {error}") from None
        warn(f"{what}. Going back to {checkpoint}, and skipping those batches")

    def state(self) -> dict[str, Any]:
        return {"losses": list(self.spikes.losses)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.spikes.losses.clear()
        self.spikes.losses.extend(state["losses"])
