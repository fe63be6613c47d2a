"""Pages of runs, from their folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
