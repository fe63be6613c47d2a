"""Signals during a run (Ctrl-C, SIGTERM, under torchrun SIGHUP): the step is finished and saved first."""

from __future__ import annotations

import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from luthier.errors import LuthierError, in_python
from luthier.terminal.printing import say


class InterruptedRunError(LuthierError):
    """Ctrl-C or SIGTERM: the step was finished and saved."""

    exit_code = 130


def how_to_resume(folder: Path) -> str:
    """What goes on with a run, as a command or in Python."""
    if in_python():
        return f"luthier.train(out={str(folder)!r}, resume=True)"
    return f"luthier train --out {shlex.quote(str(folder))} --resume"


@contextmanager
def finish_on_signal() -> Iterator[list[int]]:
    """Yield a list to which a first signal is added, so that the step can end. A second one interrupts at once."""
    received: list[int] = []

    def handle(number: int, frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        # the signal may have come in the middle of a print, which cannot be entered again: a thread waits for its end
        line = "stopping after this step (once more to stop at once)"
        threading.Thread(target=say, args=(line,), daemon=True).start()

    numbers = [signal.SIGINT, signal.SIGTERM]
    # it is ignored already but under torchrun: see terminal.streams.outliving_terminal
    if (
        hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    ):  # terminal.outliving_terminal
        numbers.append(signal.SIGHUP)
    try:
        before = {number: signal.signal(number, handle) for number in numbers}
    except ValueError:  # not the main thread: then signals are not ours to take
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
