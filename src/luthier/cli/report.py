"""`luthier report`: the page of a run, or of several side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from luthier.terminal.printing import say

ABOUT = """Write a page about a training run: settings, data, curves, samples, and how to go on. It opens in a browser
without a network. Of several runs the page compares them. A run may still be going.

    luthier report runs/book
    luthier report runs/a runs/b --out compared.html
"""


@dataclass(frozen=True)
class Arguments:
    """What the command line says."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Folders that `luthier train` made."""
    out: Path | None = None
    """The page; report.html in the run's folder unless given, or here when there are several runs."""


def main(arguments: list[str]) -> int:
    """Write the page and say where it is."""
    given = tyro.cli(Arguments, prog="luthier report", description=ABOUT, args=arguments)
    from luthier.errors import UsageError, remark
    from luthier.run.report import write_comparison, write_report

    if not given.runs:
        raise UsageError("no run is named: luthier report runs/book")
    folders: dict[Path, Path] = {}
    for run in given.runs:
        if folders.setdefault(run.resolve(), run) is not run:
            remark(f"{run} has no effect: the run is on the page already, as {folders[run.resolve()]}")
    if len(folders) == 1:
        say(str(write_report(given.runs[0], given.out)))
    else:
        say(str(write_comparison(list(folders.values()), given.out or Path("report.html"))))
    return 0
