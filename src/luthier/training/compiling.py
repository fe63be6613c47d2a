"""Private folders for torch.compile's files, and readable errors from it.

torch.compile passes paths to the C++ compiler unquoted, so a space in TMPDIR breaks it. Its cache is later loaded as
code, so the folder must be writable by this user only. Temporary files are removed when the process ends, or by the
next process if this one is killed.
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

from luthier.files import user_folders
from luthier.files.unfinished import unfinished

CACHE = "TORCHINDUCTOR_CACHE_DIR"
OF_PYTORCH = "torchinductor_"  # prefix of the default cache folder in TMPDIR that PyTorch writes to CACHE


@cache
def use_own_folders() -> None:
    """Set torch.compile's cache to the user's cache folder, unless TORCHINDUCTOR_CACHE_DIR is set.

    Temporary files of this process go there from here on, too.
    """
    base = own_folder()
    if base is None:
        return
    kept = str(base / "kept")
    if Path(os.environ.get(CACHE, OF_PYTORCH)).name.startswith(OF_PYTORCH):
        os.environ[CACHE] = kept
    tempfile.tempdir = kept
    Path(kept).mkdir(exist_ok=True)
    with suppress(ImportError):  # it puts its compiled headers into the tempdir at import time
        import_module("torch._inductor.codecache")
    stack = ExitStack()
    atexit.register(stack.close)
    folder = str(stack.enter_context(unfinished(base / "temporary", folder=True)))
    tempfile.tempdir = os.environ["TMPDIR"] = folder


def own_folder() -> Path | None:
    """A folder for compiled files writable by this user only, without spaces in its path; None if there is none."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    bases = [Path(place) / f"luthier-{user}" for place in (tempfile.gettempdir(), "/tmp")]  # noqa: S108
    with suppress(OSError):
        bases.insert(0, user_folders.caches())
    for base in bases:
        if base.is_absolute() and not re.search(r"\s", str(base)):
            with suppress(OSError):
                return user_folders.private(base, "compile")
    return None


def failure(error: Exception) -> str:
    """Why compilation failed, in one line: the compiler's error message, and a way out where known."""
    text = str(error)
    said = re.search(r"^.*?((?:fatal )?error: .*)$", text.partition("Output:")[2], re.MULTILINE)
    lines = [line for line in text.strip().splitlines() if line.strip()]
    line = said.group(1) if said else (lines[0] if lines else type(error).__name__)
    folders = (os.environ.get(CACHE, ""), tempfile.gettempdir())
    if spaced := [folder for folder in folders if re.search(r"\s", folder)]:
        line += f"; the path {spaced[0]!r} has a space, which torch.compile cannot take: set TMPDIR "
        line += f"and {CACHE} to folders without"
    return line
