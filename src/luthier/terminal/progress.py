"""Progress of a long job on stderr: a progress bar on a terminal, otherwise a plain line every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from luthier.terminal.characters import one_line
from luthier.terminal.printing import live_bar, note
from luthier.terminal.streams import is_terminal

PLAIN_SECONDS = 10.0  # between two lines when stderr is not a terminal


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show the progress of `total` units (None: unknown). Yields a function to call with the number of newly done
    ones.
    """
    if not is_terminal("stderr"):
        yield _plain(what, total)
        return
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with live_bar("stderr", *columns) as bar:
        task = bar.add_task(one_line(what), total=total)
        yield lambda more: bar.update(task, advance=more)


def _plain(what: str, total: int | None) -> Callable[[int], None]:
    done, shown = 0, time.monotonic()

    def advance(more: int) -> None:
        nonlocal done, shown
        done += more
        if time.monotonic() - shown >= PLAIN_SECONDS:
            shown = time.monotonic()
            note(f"{what}: {done / total:.0%}" if total else f"{what}: {done:,}")

    return advance
