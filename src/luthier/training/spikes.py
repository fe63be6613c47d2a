"""Finding a spike: a training loss far above those before it, from which a run may not recover by itself."""

from __future__ import annotations

import statistics
from collections import deque

WINDOW = 64  # steps that are looked back at
LEAST = 32  # steps before anything is called a spike
DEVIATIONS = 6.0


class SpikeDetector:
    """Told each step's loss. `losses`: those of the last WINDOW steps, which is all that it remembers."""

    def __init__(self) -> None:
        self.losses: deque[float] = deque(maxlen=WINDOW)

    def sees(self, loss: float) -> bool:
        """Whether this loss (nats a token) lies over the mean of the last ones by DEVIATIONS standard deviations."""
        spike = len(self.losses) >= LEAST and loss > self.limit
        if not spike:  # a spike is no measure for those that follow it
            self.losses.append(loss)
        return spike

    @property
    def limit(self) -> float:
        """The largest loss that is no spike."""
        return statistics.fmean(self.losses) + DEVIATIONS * max(statistics.pstdev(self.losses), 0.01)
