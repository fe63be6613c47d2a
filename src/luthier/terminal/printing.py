"""Print messages and results of commands. Nothing else in Luthier prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from luthier.errors import LuthierError
from luthier.terminal.characters import message, one_line, printable
from luthier.terminal.streams import Guarded, Name, is_terminal, offer, stream, write

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn
    from rich.table import Table
    from rich.text import Text

WIDEST = 10_000  # columns of a table written to a file: lines are not wrapped
Cell = str | tuple[str, str]  # text, or text and its style
_state: dict[str, Any] = {"muted": False, "quiet": 0, "live": {}}


def mute(whether: bool = True) -> None:
    """Suppress all output of this process except errors: of several processes only rank 0 reports."""
    _state["muted"] = whether


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress messages of what runs inside, such as the trainings of a study, which reports for them."""
    _state["quiet"] += 1
    try:
        yield
    finally:
        _state["quiet"] -= 1


def say(text: str = "") -> None:
    """Print messages on stdout. Failures are ignored, so that work continues if they cannot be printed."""
    if not _state["muted"] and not _state["quiet"]:
        _line("stdout", printable(text))


def note(text: str) -> None:
    """Print an informational line on stderr, while the result goes to stdout."""
    if not _state["muted"] and not _state["quiet"]:
        _line("stderr", message(text))


def warn(text: str) -> None:
    """Print a warning on stderr."""
    note(f"luthier: warning: {text}")


def fail(text: str) -> None:
    """Print the error that ends the command on stderr."""
    _line("stderr", message(f"luthier: {text}"))


def output(text: str = "") -> None:
    """Print lines of a command's result on stdout. Raises as `output_text` does."""
    output_text(printable(text) + "\n")


def output_text(text: str) -> None:
    """Print part of a command's result on stdout, unchanged. Raises BrokenPipeError if the reader has closed the pipe.

    Raises a LuthierError if it cannot be written, as on a full disk.
    """
    try:
        write("stdout", text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise LuthierError(f"stdout cannot be written: {error.strerror or error}") from error


def output_table(rows: Sequence[Sequence[Cell]], heads: Sequence[str] = (), *, title: str = "") -> None:
    """Print a table as a command's result. heads: column names; with them, all columns but the first are numbers."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(one_line(title)) if title else None, show_header=bool(heads), title_justify="left")
    if not heads and not title:
        table.box, table.pad_edge = None, False
    for number, name in enumerate(heads):
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        cells = [(cell, "") if isinstance(cell, str) else cell for cell in row]
        table.add_row(*(Text(one_line(text), style=style) for text, style in cells))  # Text: markup is not interpreted
    _output_drawn(table)


def output_styled(parts: Sequence[tuple[str, str]]) -> None:
    """Print one paragraph of (text, style) parts."""
    from rich.text import Text

    _output_drawn(Text.assemble(*((one_line(text), style) for text, style in parts)))


def _output_drawn(drawing: Table | Text) -> None:
    from rich.console import Console

    width = None if is_terminal("stdout") else WIDEST
    console = Console(file=Guarded("stdout"), highlight=False, width=width)  # type: ignore[arg-type]
    with console.capture() as drawn:
        console.print(drawing)
    output_text(drawn.get())


@contextmanager
def live_bar(name: Name, *columns: ProgressColumn) -> Iterator[Progress]:
    """A progress bar on a terminal; while it is shown, this module's lines are printed above it."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=Guarded(name), highlight=False)  # type: ignore[arg-type]
    bar = Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
    before = dict(_state["live"])
    _state["live"] = {each: console for each in ("stdout", "stderr") if is_terminal(each)}
    try:
        with bar:
            yield bar
    finally:
        _state["live"] = before


def _line(name: Name, text: str) -> None:
    """Print lines on a stream, above the progress bar if there is one on this terminal."""
    live: Console | None = _state["live"].get(name)
    if live is not None and stream(name) is not None:
        live.print(text, markup=False, emoji=False, soft_wrap=True)
    else:
        offer(name, text + "\n")
