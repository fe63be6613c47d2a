"""Detection of loss spikes: a training loss far above recent ones, from which a run may not recover by itself."""

from __future__ import annotations

import statistics
from collections import deque

WINDOW = 64  # recent steps to compare with
LEAST = 32  # minimum number of steps before detection starts
DEVIATIONS = 6.0


class SpikeDetector:
    """Spike detector, given each step's loss. `losses`: those of the last WINDOW steps, its entire state."""

    def __init__(self) -> None:
        self.losses: deque[float] = deque(maxlen=WINDOW)

    def sees(self, loss: float) -> bool:
        """Whether this loss (nats per token) exceeds the mean of recent ones by DEVIATIONS standard deviations."""
        spike = len(self.losses) >= LEAST and loss > self.limit
        if not spike:  # spikes must not raise the threshold for later ones
            self.losses.append(loss)
        return spike

    @property
    def limit(self) -> float:
        """The spike threshold: the largest loss that is not a spike."""
        return statistics.fmean(self.losses) + DEVIATIONS * max(statistics.pstdev(self.losses), 0.01)
