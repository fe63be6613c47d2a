"""Time and memory of a run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from luthier.memory import peak_memory
from luthier.training.callback import Callback


class Clock(Callback):
    """Seconds spent on a run, before it was resumed too, and the peak of the memory used."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds_before = 0.0  # until the last restore
        self.began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time spent on this run until now."""
        return self.seconds_before + time.monotonic() - self.began

    def begin(self) -> None:
        self.began = time.monotonic()

    def metrics(self) -> dict[str, Any]:
        """seconds; peak_memory in bytes."""
        return {"seconds": self.seconds, "peak_memory": peak_memory(self.device)}

    def state(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.seconds_before, self.began = state["seconds"], time.monotonic()

    def go_back(self, state: Mapping[str, Any]) -> None:
        """Time does not go back."""
