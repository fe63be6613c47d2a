"""Folders of the user outside of what a command names: downloads, and compiled code.

What lies in a folder of compiled code is loaded as a program, so it must be one that no other user can write to.
"""

from __future__ import annotations

import os
from pathlib import Path


def downloads() -> Path:
    """Where downloads are kept: $LUTHIER_HOME, or ~/.cache/luthier."""
    return Path(os.environ.get("LUTHIER_HOME") or "~/.cache/luthier").expanduser()


def caches() -> Path:
    """Luthier's folder among the user's caches, which may not be there yet. Raises an OSError if the user has none."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        # the XDG base directory specification: a relative path is ignored. It would be another folder in each folder
        base = named if named.is_absolute() else Path.home() / ".cache"
    except RuntimeError as error:
        raise FileNotFoundError(str(error)) from None
    if not base.is_absolute():
        raise FileNotFoundError(f"the home folder {Path.home()} is a relative path")
    return base / "luthier"


def private(base: Path, *below: str) -> Path:
    """Make folders, one in the other, that only this user can write to, and return the innermost.

    Raises an OSError where one cannot be made, or is another user's, or can be written by others.
    """
    folder = base
    for folder in (base, *(base.joinpath(*below[: i + 1]) for i in range(len(below)))):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.name == "nt":
            continue
        link, there = folder.lstat(), folder.stat()  # a link may be the user's own, to a larger disk
        if {link.st_uid, there.st_uid} != {os.getuid()} or there.st_mode & 0o022:
            raise PermissionError(f"{folder} is another user's, or can be written by others: chmod go-w {folder}")
    return folder
