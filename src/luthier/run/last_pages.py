"""The picture and the report that a run writes at its end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from luthier.errors import LuthierError
from luthier.run.folder import RunFolder
from luthier.run.pictures import draw_losses
from luthier.run.report import write_report


def write_pages(folder: RunFolder, evaluations: list[dict[str, Any]]) -> dict[Path, str]:
    """Write the picture and the report of a run. Returns what could not be written, with the reason."""
    failed = {}
    writers: dict[Path, Callable[[], object]] = {
        folder.picture: lambda: draw_losses(evaluations, folder.path.name, folder.picture),
        folder.report: lambda: write_report(folder.path),
    }
    for path, write in writers.items():
        try:
            write()
        except (LuthierError, OSError) as error:
            failed[path] = str(error)
    return failed
