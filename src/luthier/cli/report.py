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
    from luthier.run.report import report

    say(str(report(*given.runs, out=given.out)))
    return 0
