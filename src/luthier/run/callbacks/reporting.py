"""Between callbacks: who contributes to the record of an evaluation, and who receives it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Meter(Protocol):
    """A callback that contributes to the record of an evaluation."""

    def metrics(self) -> dict[str, Any]:
        """Figures since the last evaluation; begins to collect anew."""
        ...


class Logger(Protocol):
    """A callback that shows or writes down evaluations and samples."""

    def evaluated(self, metrics: Mapping[str, Any]) -> None:
        """An evaluation: step, epoch, tokens, losses and the figures of the meters."""
        ...

    def sampled(self, sample: Mapping[str, Any]) -> None:
        """A generated text: step, epoch, prompt, text."""
        ...
