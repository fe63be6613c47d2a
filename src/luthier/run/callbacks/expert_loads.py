"""Load balance of the experts of each mixture layer, since the last evaluation."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from luthier.training.balance import load_imbalance
from luthier.training.callback import Callback
from luthier.training.loop import StepResult


class ExpertLoads(Callback):
    """Averages the load of each expert over steps."""

    def __init__(self) -> None:
        self.loads: list[list[list[float]]] = []  # a step, a mixture layer, an expert

    def after_step(self, result: StepResult) -> None:
        self.loads.append(result.loads)

    def metrics(self) -> dict[str, Any]:
        """expert_loads: fraction of tokens per expert, a list per mixture layer. imbalance: the largest layer's."""
        steps, self.loads = self.loads, []
        if not steps or not steps[-1]:
            return {}
        loads = [
            [statistics.fmean(expert) for expert in zip(*layer, strict=True)] for layer in zip(*steps, strict=True)
        ]
        return {"expert_loads": loads, "imbalance": max(load_imbalance(layer) for layer in loads)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Each step's loads are in the state of StepStatistics."""
        self.loads = [step["loads"] for step in state["recent"]]
