"""What a command sets before its verb is imported: how threads wait, and where the log goes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from luthier.terminal.printing import note

SPINS = "1000"  # some 40 microseconds
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def spin_little() -> None:
    """Let OpenMP's threads spin for 40 microseconds at most before they sleep, unless the environment says otherwise.

    Its default of 10 ms and more keeps a core busy that the awaited thread needs, where another program has the other:
    training on two threads then fell to a fifth of one thread's speed (docs/experiments.md). OpenMP reads this when
    torch is imported.
    """
    if not any(name in os.environ for name in WAITING):
        os.environ["GOMP_SPINCOUNT"] = SPINS
        os.environ["KMP_BLOCKTIME"] = "1"  # milliseconds; Intel's OpenMP, in some builds of torch


class Notes(logging.Handler):
    """Prints each message once, on stderr."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self.said:
            self.said.add(message)
            note(f"luthier: {message}")


@contextmanager
def shown_log() -> Iterator[None]:
    """Within the context, what the package logs is printed."""
    logger, handler = logging.getLogger("luthier"), Notes()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
