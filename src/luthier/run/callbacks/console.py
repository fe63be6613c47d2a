"""Progress of a run on the screen: a progress bar on a terminal, and a line for each evaluation and sample."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from luthier.terminal.durations import duration
from luthier.terminal.numbers import readable
from luthier.terminal.printing import live_bar, say
from luthier.terminal.streams import is_terminal
from luthier.training.callback import Callback
from luthier.training.loop import StepResult, Trainer


class Console(Callback):
    """Shows a run on the screen."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.bar: Progress | None = None
        self.open = ExitStack()

    def begin(self) -> None:
        self.started, self.first = time.monotonic(), self.trainer.step
        if is_terminal("stdout"):
            columns = (
                TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"),
                TimeRemainingColumn(),
            )  # fmt: skip
            self.bar = self.open.enter_context(live_bar("stdout", *columns))
            self.task = self.bar.add_task("training", total=self.trainer.total_steps, completed=self.first, loss="")

    def close(self) -> None:
        self.open.close()

    def after_step(self, result: StepResult) -> None:
        if self.bar is not None:
            speed = result.tokens / result.seconds
            loss = f"loss {result.loss:.3f}  {speed:,.0f} tokens/s"
            self.bar.update(self.task, completed=self.trainer.step, loss=loss)

    def evaluated(self, metrics: Mapping[str, Any]) -> None:
        """A line with what is there of: losses, learning rate, speed, expert load, time left."""
        step, total = metrics["step"], self.trainer.total_steps
        parts = {
            "train_loss": "  train {:.4f}", "validation_loss": "  validation {:.4f}",
            "perplexity": "  perplexity {}", "learning_rate": "  learning rate {:.2e}",
            "tokens_per_second": "  {:,.0f} tokens/s", "peak_share": " ({:.0%} of peak)",
            "imbalance": "  busiest expert x{:.2f}",
        }  # fmt: skip
        values = dict(metrics)
        if "perplexity" in values:
            values["perplexity"] = readable(values["perplexity"], 1)
        shown = "".join(form.format(values[name]) for name, form in parts.items() if name in values)
        left = (time.monotonic() - self.started) / max(1, step - self.first) * (total - step)
        eta = f"  {duration(left)} left" if self.first < step < total else ""
        say(f"step {step:>{len(str(total))}}/{total}  epoch {metrics['epoch']:.2f}{shown}{eta}")

    def sampled(self, sample: Mapping[str, Any]) -> None:
        """The text in one line."""
        say(f"  | {' '.join(str(sample['text']).split())}")
