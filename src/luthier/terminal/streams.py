"""stdout and stderr, which may be closed, full, in a narrow encoding, or gone with their terminal."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TextIO
from weakref import WeakSet

from luthier.terminal.characters import encodable, printable

Name = Literal["stdout", "stderr"]
_gone: WeakSet[TextIO] = WeakSet()  # streams that a write has failed on
_narrow: WeakSet[TextIO] = WeakSet()  # streams of which was said that characters are replaced
_lock = threading.RLock()


def stream(name: Name) -> TextIO | None:
    """The stream as it is now; None where it was closed before the program began."""
    found: TextIO | None = getattr(sys, name)
    return None if found in _gone else found


def is_terminal(name: Name) -> bool:
    """Whether a person's terminal is there."""
    found: TextIO | None = getattr(stream(name), "to", stream(name))  # of a Guarded
    try:
        return found is not None and found.isatty()
    except ValueError:  # closed
        return False


def shows_colors(name: Name) -> bool:
    """Whether colors may be written: to a terminal, and where FORCE_COLOR asks for them (force-color.org)."""
    return is_terminal(name) or bool(os.environ.get("FORCE_COLOR"))


def write(name: Name, text: str) -> None:
    """Write at once. Raises BrokenPipeError where nobody reads any more, and OSError where it cannot be written."""
    found = stream(name)
    if found is None:
        raise BrokenPipeError(f"{name} is closed")
    fitting = encodable(text, found)
    try:
        found.write(fitting)
        found.flush()
    except ValueError as error:  # closed in this process
        raise BrokenPipeError(f"{name} is closed") from error
    if fitting != text and name == "stdout" and found not in _narrow:
        _narrow.add(found)
        offer("stderr", f"luthier: {name} is in {found.encoding}: what that cannot write is printed as ?\n")


def offer(name: Name, text: str) -> None:
    """Write if that is possible: what is printed beside the work must not end it. A failure is said once, on stderr."""
    with _lock:
        found = stream(name)
        if found is None:
            return
        try:
            write(name, text)
        except OSError as error:
            _lose(found, error)


def abandon(name: Name) -> None:
    """Write nothing to a stream from now on."""
    found = stream(name)
    if found is not None:
        _leave(found)


def _leave(found: TextIO) -> None:
    _gone.add(found)
    # what lies in Python's buffer would fail again when the program ends
    with contextlib.suppress(OSError, ValueError):
        number = os.open(os.devnull, os.O_WRONLY)
        os.dup2(number, found.fileno())
        os.close(number)


def _lose(found: TextIO, error: OSError) -> None:
    """A stream has failed: drop what is printed there from now on, and say so where anybody reads it."""
    _leave(found)
    if found is sys.stdout:
        why = "nobody reads it any more" if isinstance(error, BrokenPipeError) else error.strerror or str(error)
        offer("stderr", f"luthier: stdout is gone ({why}): going on without it\n")


class Guarded(io.TextIOBase):
    """A stream for libraries that print by themselves: in any encoding, and silent once it is gone."""

    def __init__(self, name: Name) -> None:
        self.to = stream(name)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of the stream: it decides how tables are drawn."""
        return getattr(self.to, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write if that is possible."""
        self._try(lambda to: to.write(encodable(text, to)))
        return len(text)

    def flush(self) -> None:
        """Flush if that is possible."""
        self._try(lambda to: to.flush())

    def isatty(self) -> bool:
        """Whether a terminal is there."""
        return self.to is not None and self.to.isatty()

    def fileno(self) -> int:
        """The number of the stream's file."""
        if self.to is None:
            raise OSError("there is no stream")
        return self.to.fileno()

    def _try(self, act: Callable[[TextIO], object]) -> None:
        with _lock:
            if self.to is None or self.to in _gone:
                return
            try:
                act(self.to)
            except OSError as error:
                _lose(self.to, error)


class Plain(Guarded):
    """The same, and libraries see no terminal in it, so that they write no colors."""

    def isatty(self) -> bool:
        """No."""
        return False


class Filtered(Plain):
    """And nothing in what they print steers the terminal."""

    def write(self, text: str) -> int:
        """Write what is harmless."""
        super().write(printable(text))
        return len(text)


@contextmanager
def filtered_stderr() -> Iterator[None]:
    """Within the context, what libraries print on stderr is filtered, and has no colors, which are escape codes."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Plain("stdout"), Filtered("stderr")
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def flush() -> None:
    """Send on what libraries have printed."""
    for found in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            found.flush()


def hold_standard_streams() -> None:
    """Give closed standard streams a place that takes nothing and gives nothing, and have writes to the others wait.

    Else the next file that is opened gets the number of stdout, and what a library prints is written into it; and a
    parent that set its pipe not to wait would have us fail when it reads slowly.
    """
    for number in (1, 2):
        with contextlib.suppress(OSError):
            if not os.get_blocking(number):
                os.set_blocking(number, True)
    while True:
        number = os.open(os.devnull, os.O_RDWR)
        if number > 2:
            os.close(number)
            return


def accept_any_character() -> None:
    """Let print(), as libraries call it, replace what an encoding lacks."""
    for found in (sys.stdout, sys.stderr):
        if isinstance(found, io.TextIOWrapper) and found.errors in ("strict", "surrogateescape"):
            found.reconfigure(errors="replace")


@contextmanager
def outliving_terminal() -> Iterator[None]:
    """Ignore SIGHUP: the work goes on when the terminal hangs up. Also in the processes that are started meanwhile.

    Under torchrun the signal stays as it is: torchrun ends its processes when it hears it, so they must save.
    """
    if not hasattr(signal, "SIGHUP") or "TORCHELASTIC_RUN_ID" in os.environ:
        yield
        return
    try:
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    except ValueError:  # not the main thread: then signals are not ours to take
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
