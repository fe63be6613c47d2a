"""Progress of a long job on stderr: a bar with the time left on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PLAIN_SECONDS = 10.0  # between two lines when stderr is not a terminal


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a job of `total` units (None: not known). Yields the function that is told how many more are done."""
    if not sys.stderr.isatty():
        yield _plain(what, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda more: bar.update(task, advance=more)


def _plain(what: str, total: int | None) -> Callable[[int], None]:
    done, shown = 0, time.monotonic()

    def advance(more: int) -> None:
        nonlocal done, shown
        done += more
        if time.monotonic() - shown >= PLAIN_SECONDS:
            shown = time.monotonic()
            print(f"{what}: {done / total:.0%}" if total else f"{what}: {done:,}", file=sys.stderr, flush=True)

    return advance
