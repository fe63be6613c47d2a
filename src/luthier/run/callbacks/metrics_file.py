"""The log of a run: metrics.jsonl and samples.jsonl, a line for each evaluation and sample."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luthier.run.json_lines import append, forget_after
from luthier.training.callback import Callback


class MetricsFile(Callback):
    """Writes evaluations and samples down."""

    def __init__(self, metrics: Path, samples: Path) -> None:
        self.metrics, self.samples = metrics, samples

    def evaluated(self, metrics: Mapping[str, Any]) -> None:
        """Append to metrics.jsonl."""
        append(self.metrics, metrics)

    def sampled(self, sample: Mapping[str, Any]) -> None:
        """Append to samples.jsonl."""
        append(self.samples, sample)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Remove what comes after the checkpoint: the run makes it again."""
        for path in (self.metrics, self.samples):
            forget_after(path, state["step"])
