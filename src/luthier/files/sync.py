"""fsync of files and folders, so that what was written survives a crash of the machine."""

from __future__ import annotations

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Call fsync on a file, or the directory entries of a folder."""
    if path.is_dir() and os.name == "nt":  # folders cannot be opened on Windows
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def sync_folder(folder: Path) -> None:
    """Call fsync on a folder and everything in it, recursively."""
    for path in folder.iterdir():
        if path.is_dir():
            sync_folder(path)
        else:
            sync(path)
    sync(folder)
