"""The record of a training run, as its pages take it. A file of a run may hold anything, so every number is checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LARGEST = 1e300  # what is larger is no measure


@dataclass(frozen=True)
class RunRecord:
    """Settings, evaluations and samples of a run. settings, model: every setting, and every field of the Config."""

    name: str
    path: Path
    data: tuple[str, ...]
    settings: Mapping[str, Any]
    model: Mapping[str, Any]
    preset: str  # or the model that the run goes on with
    family: str
    parameters: int
    active_parameters: int
    recipe: str  # run.toml
    evaluations: list[dict[str, Any]]  # those with a step, an epoch and tokens
    samples: list[dict[str, Any]]
    splits: dict[str, dict[str, int]]  # by name: tokens, bytes and documents; none where its tokens are gone

    @property
    def steps_done(self) -> int:
        """The step of the last evaluation."""
        return int(self.evaluations[-1]["step"]) if self.evaluations else 0

    @property
    def total_steps(self) -> int:
        """Length of the run; 0 if that is unknown before its first step."""
        last, steps = self.evaluations[-1] if self.evaluations else {}, int(self.settings["steps"])
        if steps or not last.get("epoch", 0) > 1e-9:
            return steps
        return math.ceil((self.settings["epochs"] or 1) * float(last["step"]) / float(last["epoch"]) - 1e-6)

    @property
    def judged(self) -> str:
        """The loss that selects the best weights."""
        held_out = any(number(each, "validation_loss") is not None for each in self.evaluations)
        return "validation_loss" if held_out else "train_loss"

    @property
    def best(self) -> dict[str, Any] | None:
        """The evaluation with the lowest loss."""
        known = [each for each in self.evaluations if number(each, self.judged) is not None]
        return min(known, key=lambda each: float(each[self.judged]), default=None)

    def series(self, key: str) -> list[float | None]:
        """A measure at each evaluation."""
        return [number(each, key) for each in self.evaluations]

    def last(self, key: str) -> float | None:
        """The last known value of a measure."""
        return next((value for value in reversed(self.series(key)) if value is not None), None)


def number(record: dict[str, Any], key: str) -> float | None:
    """A finite number of a record, or None."""
    value = record.get(key)
    real = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST
    return value if real else None


def loads_of(evaluation: dict[str, Any]) -> list[list[float]]:
    """Load of each expert in each mixture layer, as fractions; empty without experts."""
    loads = evaluation.get("expert_loads")
    shares = isinstance(loads, list) and all(
        isinstance(layer, list)
        and layer
        and all(isinstance(share, (int, float)) and 0 <= share <= 1 for share in layer)
        for layer in loads
    )
    return loads if shares and loads else []


def rows_by_epoch(evaluations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first evaluation, those nearest to the end of each epoch, and the last: at most 13."""
    epochs = max(1, math.floor(evaluations[-1]["epoch"] + 1e-6))
    wanted = {0, *(round(epochs * i / 11) for i in range(12))} if epochs > 1 else set()
    nearest = [min(evaluations, key=lambda each: abs(each["epoch"] - epoch)) for epoch in sorted(wanted - {0})]
    rows = [evaluations[0], *nearest]
    return rows if evaluations[-1] is rows[-1] else [*rows, evaluations[-1]]
