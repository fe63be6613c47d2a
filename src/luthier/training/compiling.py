"""Folders of our own for what torch.compile writes, and why it failed.

torch.compile hands paths to the C++ compiler without quoting them, so a space in TMPDIR is enough to break it. What it
keeps is loaded as programs later: the folder must be one that nobody else can write. What it writes on the way is
removed when the process ends, or by the next process when this one is killed.
"""

from __future__ import annotations

import atexit
import os
import re
import tempfile
from contextlib import ExitStack, suppress
from functools import cache
from importlib import import_module
from pathlib import Path

from luthier.files.unfinished import unfinished

CACHE = "TORCHINDUCTOR_CACHE_DIR"
OF_PYTORCH = "torchinductor_"  # how the folder in TMPDIR begins that PyTorch names in CACHE by itself


@cache
def use_own_folders() -> None:
    """Let torch.compile keep its files in the user's cache folder, unless a folder is named by TORCHINDUCTOR_CACHE_DIR.

    Its temporary files, and all others of this process from here on, go there too.
    """
    base = own_folder()
    if base is None:
        return
    kept = str(base / "kept")
    if Path(os.environ.get(CACHE, OF_PYTORCH)).name.startswith(OF_PYTORCH):
        os.environ[CACHE] = kept
    tempfile.tempdir = kept
    Path(kept).mkdir(exist_ok=True)
    with suppress(ImportError):  # it keeps its compiled headers among the temporary files of now
        import_module("torch._inductor.codecache")
    stack = ExitStack()
    atexit.register(stack.close)
    folder = str(stack.enter_context(unfinished(base / "temporary", folder=True)))
    tempfile.tempdir = os.environ["TMPDIR"] = folder


def own_folder() -> Path | None:
    """A folder for compiled files that only this user can write, with no space in its path; None if there is none."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    caches = named if named.is_absolute() else Path(os.path.expanduser("~")) / ".cache"  # noqa: PTH111 (never raises)
    user = os.getuid() if hasattr(os, "getuid") else 0
    for base in (caches / "luthier", *(Path(place) / f"luthier-{user}" for place in (tempfile.gettempdir(), "/tmp"))):  # noqa: S108
        folder = base / "compile"
        if re.search(r"\s", str(folder)) or not folder.is_absolute():
            continue
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            owners = [path.lstat() for path in (base, folder)]
            if all(owner.st_uid == user and not owner.st_mode & 0o022 for owner in owners) or os.name == "nt":
                return folder
        except OSError:
            continue
    return None


def failure(error: Exception) -> str:
    """Why compiling failed, in one line: what the compiler itself said, and a way out where it is known."""
    text = str(error)
    said = re.search(r"^.*?((?:fatal )?error: .*)$", text.partition("Output:")[2], re.MULTILINE)
    lines = [line for line in text.strip().splitlines() if line.strip()]
    line = said.group(1) if said else (lines[0] if lines else type(error).__name__)
    folders = (os.environ.get(CACHE, ""), tempfile.gettempdir())
    if spaced := [folder for folder in folders if re.search(r"\s", folder)]:
        line += f"; the path {spaced[0]!r} has a space, which torch.compile cannot take: set TMPDIR "
        line += f"and {CACHE} to folders without"
    return line
