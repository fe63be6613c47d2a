"""All that a run's folder tells: its plan, what was measured, what the model said.

The folder is read as it stands, so it can be read while the run goes. A file of it may be cut short, or hold anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.data.shards import read_index
from luthier.errors import LuthierError
from luthier.run import corpus
from luthier.run.folder import RunFolder
from luthier.run.json_lines import read_lines
from luthier.run.plan import Plan, read_run, resolve

LARGEST = 1e300  # what is larger is no measure
COUNTS = ("tokens", "bytes", "documents")


@dataclass(frozen=True)
class Record:
    """All that a run's folder tells."""

    name: str
    path: Path
    plan: Plan
    looks: list[dict[str, Any]]  # those with a step, an epoch and tokens
    samples: list[dict[str, Any]]
    splits: dict[str, dict[str, int]]  # by name: tokens, bytes and documents; none where its tokens are gone

    @property
    def total_steps(self) -> int:
        """Where the run ends; 0 when that is not to be known before its first step."""
        settings = self.plan.settings
        last = self.looks[-1] if self.looks else {}
        if settings.steps or not last.get("epoch", 0) > 1e-9:
            return settings.steps
        return math.ceil((settings.epochs or 1) * float(last["step"]) / float(last["epoch"]) - 1e-6)

    @property
    def judged(self) -> str:
        """The loss that the best weights are chosen by."""
        held_out = any(number(look, "validation_loss") is not None for look in self.looks)
        return "validation_loss" if held_out else "train_loss"

    @property
    def best(self) -> dict[str, Any] | None:
        """The look with the lowest loss."""
        seen = [look for look in self.looks if number(look, self.judged) is not None]
        return min(seen, key=lambda look: float(look[self.judged]), default=None)

    def series(self, key: str) -> list[float | None]:
        """A measure at each look."""
        return [number(look, key) for look in self.looks]

    def last(self, key: str) -> float | None:
        """A measure as it was last known."""
        return next((value for value in reversed(self.series(key)) if value is not None), None)


def number(record: dict[str, Any], key: str) -> float | None:
    """A finite number, or None: a file may hold anything."""
    value = record.get(key)
    real = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST
    return value if real else None


def evaluations(path: Path) -> list[dict[str, Any]]:
    """The evaluations of a metrics.jsonl that are whole: place and losses are there, and are numbers."""
    keys = {"step", "epoch", "tokens", "train_loss", "perplexity"}
    held_out = {"validation_loss"}  # not in a run without held-out text
    return [
        found
        for found in records(path)
        if all(number(found, key) is not None for key in keys | held_out & found.keys())
    ]


def read(path: Path) -> Record:
    """A run's folder. A LuthierError when it is none."""
    folder = RunFolder(path)
    plan = resolve(recipe=read_run(path), where=str(folder.recipe))
    places = ("step", "epoch", "tokens")
    looks = [look for look in records(folder.metrics) if all(number(look, key) is not None for key in places)]
    samples = [sample for sample in records(folder.samples) if number(sample, "step") is not None]
    try:
        index = read_index(corpus.prepared_folder(plan.data) or folder.tokens)
        splits = {name: {key: int(entry[key]) for key in COUNTS} for name, entry in index.splits.items()}
    except (LuthierError, KeyError, TypeError, ValueError):
        splits = {}
    return Record(path.resolve().name, path, plan, looks, samples, splits)


def records(path: Path) -> list[dict[str, Any]]:
    """The records of a .jsonl file that are tables."""
    return [record for record in read_lines(path) if isinstance(record, dict)]


def loads_of(look: dict[str, Any]) -> list[list[float]]:
    """The shares of each expert in each mixture layer, or nothing."""
    loads = look.get("expert_loads")
    shares = isinstance(loads, list) and all(
        isinstance(layer, list)
        and layer
        and all(isinstance(share, (int, float)) and 0 <= share <= 1 for share in layer)
        for layer in loads
    )
    return loads if shares and loads else []
