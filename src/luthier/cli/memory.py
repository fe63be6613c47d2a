"""Running out of memory is one line that says so, also where the system library or Rust ends the process.

Python raises MemoryError. Libraries raise errors of their own. Rust's and OpenBLAS's allocators end the process: where
a limit is set (`ulimit -v`) the verb therefore runs in a child process, whose end its parent puts into words.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import threading
from collections.abc import Callable

from luthier.memory import process_limit, process_size
from luthier.terminal.printing import fail
from luthier.terminal.streams import flush, offer

SAYS_MEMORY = re.compile(
    r"not enough memory|out of memory|cannot allocate|can't allocate|failed to map segment|bad_alloc|bad alloc"
    r"|unable to mmap|insufficient memory|can't start new thread|std::length_error",
    re.IGNORECASE,
)
# what the native allocators say as they end the process
LAST_WORDS = re.compile(
    rb"^(memory allocation of \d+ bytes failed|skipping backtrace printing|stack backtrace|OpenBLAS error"
    rb"|OpenBLAS warning|OpenBLAS blas_thread_init|terminate called|  what\(\): |libgomp: |Fatal Python error"
    rb"|thread '.*' panicked|note: run with `RUST_BACKTRACE|fatal runtime error|libc\+\+abi)"
)
NEARLY = 0.9  # of the limit in use: what fails then, fails for want of memory


def is_memory_error(error: BaseException) -> bool:
    """Whether memory ran out, by the error's kind, its words, or how near the limit we are."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    if SAYS_MEMORY.search(str(error)):
        return True
    ceiling = process_limit()
    return ceiling is not None and process_size() > NEARLY * ceiling


def explanation(error: BaseException | None = None) -> str:
    """The line for people."""
    asked = re.search(r"allocate (\d+) bytes|tried to allocate ([\d.]+ [KMGT]i?B)", str(error)) if error else None
    found = asked and (asked[2] or f"{int(asked[1]) / 1e6:,.1f} MB")
    what = f" ({found} more were asked for)" if found else ""
    ceiling = process_limit()
    bound = f", where `ulimit -v` allows {ceiling / 1e9:,.2f} GB" if ceiling is not None else ""
    return f"not enough memory{what}{bound}: raise the limit, or take a smaller model, batch or context"


def guarded(act: Callable[[], int]) -> int:
    """Do it, in a child process where memory is limited. Returns its exit code."""
    # torchrun knows its processes by their number, and says itself how one ended
    here = process_limit() is None or "TORCHELASTIC_RUN_ID" in os.environ
    if here or not hasattr(os, "fork") or threading.current_thread() is not threading.main_thread():
        return act()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.dup2(writing, 2)
        os.close(writing)
        _end_with_parent()
        code = 1
        try:
            code = act()
        except BaseException:  # --debug
            sys.excepthook(*sys.exc_info())
        flush()
        os._exit(code)  # not the interpreter's own end, which may run out of memory too
    os.close(writing)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        # the terminal sends Ctrl-C to both processes; what is sent to this one alone is handed on
        alone = number != signal.SIGINT or os.getpgrp() != _foreground()
        signal.signal(number, (lambda n, _: os.kill(child, n)) if alone else signal.SIG_IGN)
    native = _relay(reading)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    died = -code in (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGTRAP)
    if died or (native and code not in (0, 130)):
        fail(explanation())
        return 1
    return code if code >= 0 else 128 - code


def _relay(reading: int) -> bool:
    """Print what the child prints on stderr, but for last words. Returns whether there were any."""
    native = False
    with os.fdopen(reading, "rb") as pipe:
        for line in pipe:
            if LAST_WORDS.match(line):
                native = True
            else:
                offer("stderr", line.decode("utf-8", "replace"))
    return native


def _foreground() -> int:
    """The process group that the terminal sends Ctrl-C to; -1 without a terminal."""
    try:
        number = os.open("/dev/tty", os.O_RDONLY)
    except OSError:
        return -1
    try:
        return os.tcgetpgrp(number)
    except OSError:
        return -1
    finally:
        os.close(number)


def _end_with_parent() -> None:
    """Have the system kill this process when its parent is killed."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
