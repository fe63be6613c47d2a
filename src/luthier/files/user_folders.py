"""The user's folders for downloads and compiled code.

Files in the folder of compiled code are executed, so no other user may be able to write to it.
"""

from __future__ import annotations

import os
from pathlib import Path


def downloads() -> Path:
    """The folder of downloads: $LUTHIER_HOME, or ~/.cache/luthier."""
    return Path(os.environ.get("LUTHIER_HOME") or "~/.cache/luthier").expanduser()


def caches() -> Path:
    """Luthier's cache folder, which may not exist yet. Raises an OSError if the user has no home folder."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        # by the XDG base directory specification, a relative path is ignored
        base = named if named.is_absolute() else Path.home() / ".cache"
    except RuntimeError as error:
        raise FileNotFoundError(str(error)) from None
    if not base.is_absolute():
        raise FileNotFoundError(f"the home folder {Path.home()} is a relative path")
    return base / "luthier"


def private(base: Path, *below: str) -> Path:
    """Create nested folders that only this user can write to. Returns the innermost.

    Raises an OSError if one cannot be created, belongs to another user, or can be written by others.
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
