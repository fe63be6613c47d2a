"""Detection of loss spikes: a training loss far above recent ones, from which a run may not recover by itself."""

from __future__ import annotations

import statistics
from collections import deque

WINDOW = 64  # recent steps to compare with
LEAST = 32  # steps before the standard deviation of their losses is meaningful
DEVIATIONS = 6.0
EARLY = 1.0  # nat above the largest loss so far: the threshold before that, while the loss still falls


class SpikeDetector:
    """Spike detector, given each step's loss. `losses`: those of the last WINDOW steps, its entire state.

    The first step of a run cannot be judged. While fewer than LEAST losses are known, they still fall and their
    standard deviation says little: a spike is then a loss EARLY above the largest of them.
    """

    def __init__(self) -> None:
        self.losses: deque[float] = deque(maxlen=WINDOW)

    def sees(self, loss: float) -> bool:
        """Whether this loss (nats per token) exceeds the threshold."""
        spike = bool(self.losses) and loss > self.limit
        if not spike:  # spikes must not raise the threshold for later ones
            self.losses.append(loss)
        return spike

    @property
    def limit(self) -> float:
        """The spike threshold: DEVIATIONS standard deviations above the mean of the recent losses."""
        if len(self.losses) < LEAST:
            return max(self.losses) + EARLY
        return statistics.fmean(self.losses) + DEVIATIONS * max(statistics.pstdev(self.losses), 0.01)
