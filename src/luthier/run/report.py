"""Pages of runs, from their folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from luthier.errors import UsageError, remark
from luthier.pages.comparison_page import write_comparison_page
from luthier.pages.run_page import write_run_page
from luthier.run.folder import RunFolder
from luthier.run.record import read


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the page of a run, into its folder unless `out` says where else. Returns the page."""
    return write_run_page(read(folder), out or RunFolder(folder).report)


def write_comparison(folders: Sequence[Path], out: Path) -> Path:
    """Write one page that compares runs. Returns the page."""
    return write_comparison_page([read(folder) for folder in folders], out)


def report(*runs: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Path:
    """Write the page about a run, or one that compares several. Returns its path. A run may still be going.

        >>> luthier.report("runs/book")
        PosixPath('runs/book/report.html')

    out: the page; report.html in the run's folder unless given, or here when there are several runs. Raises a
    LuthierError where a folder is no run.
    """
    if not runs:
        raise UsageError("no run is named: luthier report runs/book")
    folders: dict[Path, Path] = {}
    for run in map(Path, runs):
        if folders.setdefault(run.resolve(), run) is not run:
            remark(f"{run} has no effect: the run is on the page already, as {folders[run.resolve()]}")
    page = None if out is None else Path(out)
    if len(folders) == 1:
        return write_report(Path(runs[0]), page)
    return write_comparison(list(folders.values()), page or Path("report.html"))
