"""Checkpoints: saving all that resuming needs, and finding it again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from luthier.language_model import LanguageModel
from luthier.run.callbacks.writer import BackgroundWriter
from luthier.run.checkpoint_record import CheckpointRecord
from luthier.run.folder import RunFolder, read_checkpoint
from luthier.run.intervals import Intervals
from luthier.run.snapshots import copied, snapshot
from luthier.training.callback import Callback
from luthier.training.distributed import World
from luthier.training.loop import StepResult, Trainer


class Checkpoint(Callback):
    """Saves checkpoints: before the first step, so that a first bad step can go back, at intervals, and at the end."""

    def __init__(
        self,
        folder: RunFolder,
        lm: LanguageModel,
        trainer: Trainer,
        keep: int,
        intervals: Intervals,
        writer: BackgroundWriter,
        record: Callable[[], tuple[dict[str, Tensor], dict[str, Any]]],
    ) -> None:
        """keep: number of checkpoints. record: the tensors and the fields of CheckpointRecord, as they are now."""
        self.folder, self.lm, self.trainer, self.keep = folder, lm, trainer, keep
        self.intervals, self.writer, self.record = intervals, writer, record
        self.saves = 0  # in this process

    def begin(self) -> None:
        if self.trainer.step == 0:
            self.save()

    def after_step(self, result: StepResult) -> None:
        if self.intervals.checkpoint_due(self.trainer.step):
            self.save()

    def save(self) -> Path:
        """Have a checkpoint written. Returns its future path."""
        tensors, record = self.record()
        lm, tensors, keep = snapshot(self.lm), copied(tensors), self.keep
        self.writer.add(lambda: self.folder.save_checkpoint(lm, tensors, record, keep))
        self.saves += 1
        return self.folder.checkpoint_at(self.trainer.step)

    def last_good(self) -> str:
        """Where the last good weights are, if any were saved. The current ones may already be useless."""
        self.writer.flush()
        whole = self.folder.whole_checkpoints()
        return f"The last good state is in {whole[-1]}" if whole else "No checkpoint was saved before it"


def newest(folder: RunFolder, world: World) -> tuple[Path, dict[str, Tensor], CheckpointRecord]:
    """The newest whole checkpoint. The first process looks for it, because it puts damaged ones aside."""
    if world.is_first:
        found = folder.newest_checkpoint()
        world.broadcast(found[0])
        return found
    path = world.broadcast(None)
    return (path, *read_checkpoint(path))
