"""stdout and stderr, which may be closed, full, limited to an encoding, or disconnected from their terminal."""

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
_gone: WeakSet[TextIO] = WeakSet()  # streams on which a write has failed
_narrow: WeakSet[TextIO] = WeakSet()  # streams for which replaced characters have been reported
_lock = threading.RLock()


def stream(name: Name) -> TextIO | None:
    """The current stream; None if it was closed before the program started."""
    found: TextIO | None = getattr(sys, name)
    return None if found in _gone else found


def is_terminal(name: Name) -> bool:
    """Whether the stream is a terminal."""
    found: TextIO | None = getattr(stream(name), "to", stream(name))  # of a Guarded
    try:
        return found is not None and found.isatty()
    except ValueError:  # closed
        return False


def shows_colors(name: Name) -> bool:
    """Whether colors may be written: to a terminal, or if FORCE_COLOR is set (force-color.org)."""
    return is_terminal(name) or bool(os.environ.get("FORCE_COLOR"))


def write(name: Name, text: str) -> None:
    """Write and flush. Raises BrokenPipeError if the reader has closed the pipe, OSError if it cannot be written."""
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
    """Write if possible: messages must not end the work. A failure is reported once, on stderr."""
    with _lock:
        found = stream(name)
        if found is None:
            return
        try:
            write(name, text)
        except OSError as error:
            _lose(found, error)


def abandon(name: Name) -> None:
    """Stop writing to a stream."""
    found = stream(name)
    if found is not None:
        _leave(found)


def _leave(found: TextIO) -> None:
    _gone.add(found)
    # the content of Python's buffer would fail again when the program ends
    with contextlib.suppress(OSError, ValueError):
        number = os.open(os.devnull, os.O_WRONLY)
        os.dup2(number, found.fileno())
        os.close(number)


def _lose(found: TextIO, error: OSError) -> None:
    """Handle a failed stream: drop its output from now on, and report that on stderr if possible."""
    _leave(found)
    if found is sys.stdout:
        why = "nobody reads it any more" if isinstance(error, BrokenPipeError) else error.strerror or str(error)
        offer("stderr", f"luthier: stdout is gone ({why}): going on without it\n")


class Guarded(io.TextIOBase):
    """A stream for libraries that print: supports any encoding, and ignores writes after a failure."""

    def __init__(self, name: Name) -> None:
        self.to = stream(name)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's encoding, by which rich chooses box characters."""
        return getattr(self.to, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write if possible."""
        self._try(lambda to: to.write(encodable(text, to)))
        return len(text)

    def flush(self) -> None:
        """Flush if possible."""
        self._try(lambda to: to.flush())

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self.to is not None and self.to.isatty()

    def fileno(self) -> int:
        """The stream's file descriptor."""
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
    """A Guarded stream that is not a terminal to libraries, so that they write no colors."""

    def isatty(self) -> bool:
        """False."""
        return False


class Filtered(Plain):
    """A Plain stream without control sequences."""

    def write(self, text: str) -> int:
        """Write the printable form of the text."""
        super().write(printable(text))
        return len(text)


@contextmanager
def filtered_stderr() -> Iterator[None]:
    """Within the context, libraries' output on stderr is filtered: no control sequences, no colors."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Plain("stdout"), Filtered("stderr")
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def flush() -> None:
    """Flush what libraries have printed."""
    for found in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            found.flush()


def hold_standard_streams() -> None:
    """Open closed standard streams as /dev/null, and set the others to blocking.

    Otherwise the next opened file gets stdout's descriptor, and libraries print into it; and writing to a non-blocking
    pipe would fail if the parent reads slowly.
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
    """Make print(), as called by libraries, replace characters that the encoding lacks."""
    for found in (sys.stdout, sys.stderr):
        if isinstance(found, io.TextIOWrapper) and found.errors in ("strict", "surrogateescape"):
            found.reconfigure(errors="replace")


@contextmanager
def outliving_terminal() -> Iterator[None]:
    """Within the context, ignore SIGHUP, also in child processes, so that work continues when the terminal closes.

    Not under torchrun, which ends its processes on SIGHUP, so that they must save.
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
