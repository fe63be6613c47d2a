"""Speed and health of the training steps since the last evaluation."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from typing import Any

from luthier.training.callback import Callback
from luthier.training.loop import StepResult, Trainer
from luthier.training.machine import matrix_product_peak


class StepStatistics(Callback):
    """Keeps the results of recent steps and summarises them for an evaluation."""

    def __init__(self, trainer: Trainer, flops_per_token: float) -> None:
        self.trainer, self.flops_per_token = trainer, flops_per_token
        self.recent: list[StepResult] = []

    @cached_property
    def peak(self) -> float:
        """FLOP/s of the machine's matrix products in the trainer's dtype, measured once."""
        return matrix_product_peak(self.trainer.device, self.trainer.dtype)

    def after_step(self, result: StepResult) -> None:
        self.recent.append(result)

    def metrics(self) -> dict[str, Any]:
        """Loss and learning rate of the last step, median gradient norm and speed; nothing before the first step."""
        recent, self.recent = self.recent, []
        if not recent:
            return {}
        last, tokens_per_second = recent[-1], statistics.median(result.tokens / result.seconds for result in recent)
        return {
            "step_loss": last.loss,
            **{f"step_{name}": value for name, value in last.figures.items()},
            "learning_rate": last.learning_rate,
            "gradient_norm": statistics.median(result.gradient_norm for result in recent),
            "tokens_per_second": tokens_per_second,
            "peak_share": tokens_per_second * self.flops_per_token / self.peak,
        }

    def state(self) -> dict[str, Any]:
        return {"recent": [asdict(result) for result in self.recent]}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.recent = [StepResult(**step) for step in state["recent"]]
