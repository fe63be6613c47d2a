"""Evaluation of a model while it trains, and its best weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from luthier.errors import setting
from luthier.run.callbacks.reporting import Logger, Meter
from luthier.run.intervals import Intervals
from luthier.run.token_splits import Split
from luthier.training.callback import Callback
from luthier.training.loop import NonFiniteError, StepResult, Trainer


class Evaluate(Callback):
    """Measures the loss on training and validation text, and has the weights saved when they are the best so far."""

    def __init__(
        self,
        trainer: Trainer,
        splits: Mapping[str, Split],
        intervals: Intervals,
        *,
        at_start: bool,
        meters: Sequence[Meter],
        loggers: Sequence[Logger],
        save_best: Callable[[], None],
        last_good: Callable[[], str],
    ) -> None:
        """splits: "train", and "validation" if there is text for it. at_start: also before the first step. last_good:
        says where the last good weights are.
        """
        self.trainer, self.splits, self.intervals, self.at_start = trainer, splits, intervals, at_start
        self.meters, self.loggers, self.save_best, self.last_good = meters, loggers, save_best, last_good
        self.best = math.inf

    def begin(self) -> None:
        if self.at_start:
            self.evaluate()

    def after_step(self, result: StepResult) -> None:
        if self.intervals.evaluation_due(self.trainer.step):
            self.evaluate()

    def evaluate(self) -> None:
        """Measure, report, and keep the weights if they are the best so far."""
        trainer = self.trainer
        metrics: dict[str, Any] = {"step": trainer.step, "epoch": self.intervals.epoch(trainer.step)}
        metrics["tokens"] = trainer.tokens
        for name, split in self.splits.items():
            metrics |= {f"{name}_{figure}": value for figure, value in self.measure(split).items()}
        judged = "validation" if "validation" in self.splits else "train"
        loss = metrics[f"{judged}_loss"]
        if not math.isfinite(loss + metrics["train_loss"]):
            raise NonFiniteError(
                f"after step {trainer.step} the training loss is {metrics['train_loss']} and the loss on held-out text "
                f"{loss}: lower {setting('learning_rate')} or raise {setting('warmup')}. {self.last_good()}"
            )
        metrics["perplexity"] = math.exp(min(loss, 700))
        metrics["bits_per_byte"] = self.splits[judged].bits_per_byte(loss)
        for meter in self.meters:
            metrics |= meter.metrics()
        for logger in self.loggers:
            logger.evaluated(metrics)
        if loss < self.best:
            self.best = loss
            self.save_best()

    def measure(self, split: Split) -> dict[str, float]:
        """Mean loss and figures of the objective."""
        with torch.compiler.set_stance("force_eager"):  # compiling a second, gradient-free block would cost more
            return self.trainer.measure(split.batches())

    def state(self) -> dict[str, Any]:
        return {"best": self.best if math.isfinite(self.best) else None}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.best = math.inf if state["best"] is None else state["best"]

    def go_back(self, state: Mapping[str, Any]) -> None:
        """The best weights on the disk are still the best: worse ones must not replace them."""
