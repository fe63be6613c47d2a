"""The callbacks of a run, joined."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from luthier.language_model import LanguageModel
from luthier.run.callbacks.checkpoint import Checkpoint
from luthier.run.callbacks.clock import Clock
from luthier.run.callbacks.console import Console
from luthier.run.callbacks.evaluate import Evaluate
from luthier.run.callbacks.expert_loads import ExpertLoads
from luthier.run.callbacks.metrics_file import MetricsFile
from luthier.run.callbacks.recover import Recover
from luthier.run.callbacks.sample import Sample, check_prompt, default_prompt
from luthier.run.callbacks.step_statistics import StepStatistics
from luthier.run.callbacks.tensorboard import TensorBoard
from luthier.run.callbacks.writer import BackgroundWriter
from luthier.run.folder import RunFolder
from luthier.run.intervals import Intervals
from luthier.run.snapshots import snapshot
from luthier.run.token_splits import TokenSplits
from luthier.training.callback import Callbacks
from luthier.training.flops import flops_per_token
from luthier.training.loop import Trainer
from luthier.training.settings import Settings


class RunCallbacks(Callbacks):
    """The callbacks of a run, in the order of run/callbacks/__init__.py."""

    def __init__(
        self,
        folder: RunFolder,
        settings: Settings,
        lm: LanguageModel,
        text: TokenSplits,
        trainer: Trainer,
        record: Callable[[], tuple[dict[str, Tensor], dict[str, Any]]],
        go_back: Callable[[], Path],
    ) -> None:
        """record: all of the run that a checkpoint holds besides weights. go_back: returns to the newest checkpoint."""
        world, context = trainer.world, lm.config.context_length
        intervals = Intervals.of(
            settings, trainer.total_steps, trainer.batches.batches_per_epoch / settings.gradient_accumulation_steps
        )
        prompt = settings.sample_prompt or default_prompt(text.held_out, lm.tokenizer, context)
        check_prompt(prompt, lm.tokenizer, context)

        self.clock, expert_loads = Clock(trainer.device), ExpertLoads()
        self.statistics = StepStatistics(trainer, flops_per_token(trainer.model, context))
        loggers: list[Console | MetricsFile | TensorBoard] = []
        if world.is_first:
            loggers = [Console(trainer), MetricsFile(folder.metrics, folder.samples)]
            if settings.tensorboard:
                loggers.append(TensorBoard(folder.path / "tensorboard"))
        self.writer = writer = BackgroundWriter(active=world.is_first)
        self.checkpoint = Checkpoint(folder, lm, trainer, settings.keep_checkpoints, intervals, writer, record)
        self.recover = Recover(trainer, settings, self.checkpoint, go_back)

        def save_best() -> None:
            best = snapshot(lm)
            writer.add(lambda: best.save(folder.path))

        self.evaluate = Evaluate(
            trainer,
            text.splits(settings, context),
            intervals,
            at_start=world.broadcast(not folder.metrics.exists()),
            meters=(self.statistics, expert_loads, self.clock),
            loggers=loggers,
            save_best=save_best,
            last_good=self.checkpoint.last_good,
        )
        self.sample = Sample(lm, trainer, settings, prompt, intervals, loggers)
        collecting = (self.clock, self.statistics, expert_loads)
        super().__init__(*collecting, *loggers, self.recover, self.evaluate, self.sample, self.checkpoint, self.writer)
