"""Hidden temporary files and folders, locked while their process lives, and removed by the next one after it died.

NAME is first written as `.NAME.0123abcd.unfinished` beside it. The operating system releases the lock (flock) however
the process ends, so an unlocked one was left by a killed process. On file systems without such locks (some network
disks, Windows) nothing is treated as a leftover.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SUFFIX = ".unfinished"
LONGEST = 200  # bytes of NAME that are kept: file systems allow 255
TRIES = 100


@contextmanager
def unfinished(target: Path, *, folder: bool = False, mode: int = 0o777) -> Iterator[Path]:
    """Yield an empty hidden file or folder beside `target` to write; rename it to `target` when it is complete.

    Missing parent folders are created. If it is not renamed, it is removed at the end. Leftovers of dead processes for
    the same target are removed first. mode: permissions of a folder. Raises OSError.
    """
    with contextlib.suppress(FileExistsError):  # the parent is a file: creating the hidden file raises a better error
        target.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(target)
    path, lock = _create(target, folder, mode)
    try:
        yield path
    finally:
        remove(path)
        if lock is not None:
            os.close(lock)


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """A temporary folder that only this user can read.

    It is removed at the end, or by the next one of the same name if the process dies.
    """
    with unfinished(Path(tempfile.gettempdir()) / f"luthier-{name}", folder=True, mode=0o700) as folder:
        yield folder


def clear_leftovers(target: Path) -> None:
    """Remove the leftovers of dead processes for `target`."""
    pattern = re.compile(re.escape(_stem(target)) + r"[0-9a-f]{8}" + re.escape(SUFFIX))
    with contextlib.suppress(OSError):
        for path in target.parent.iterdir():
            if pattern.fullmatch(path.name):
                _remove_if_left(path)


def is_unfinished(path: Path) -> bool:
    """Whether a path has the name of an unfinished file or folder."""
    return path.name.startswith(".") and path.name.endswith(SUFFIX)


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with its contents, ignoring errors."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder atomically: it is renamed first, so that a crash leaves no part of it under its name."""
    with contextlib.suppress(OSError):
        hidden = _name(folder)
        folder.rename(hidden)
        remove(hidden)


def _stem(target: Path) -> str:
    name = os.fsencode(target.name)
    return f".{target.name if len(name) <= LONGEST else hashlib.sha256(name).hexdigest()[:32]}."


def _name(target: Path) -> Path:
    return target.parent / f"{_stem(target)}{secrets.token_hex(4)}{SUFFIX}"


def _create(target: Path, folder: bool, mode: int) -> tuple[Path, int | None]:
    for _ in range(TRIES):
        path = _name(target)
        if folder:
            path.mkdir(mode)
        else:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            lock = _lock(path, wait=True)
        except FileNotFoundError:  # another process removed it as a leftover before it was locked
            continue
        except OSError:  # no locks on this file system
            return path, None
        if lock is None or _is_still(path, lock):
            return path, lock
        os.close(lock)
    raise FileExistsError(f"{target} is being cleared by another process")


def _remove_if_left(path: Path) -> None:
    try:
        if hasattr(os, "getuid") and path.lstat().st_uid != os.getuid():
            return
        lock = _lock(path, wait=False)
    except OSError:  # locked by a living process, or no locks on this file system
        return
    if lock is None:
        return
    try:
        if _is_still(path, lock):  # otherwise it has just been finished and renamed
            remove(path)
    finally:
        os.close(lock)


def _lock(path: Path, *, wait: bool) -> int | None:
    """A file descriptor that holds the lock; None without lock support. Raises OSError if another process holds it."""
    if sys.platform == "win32":
        return None
    import fcntl

    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR  # network disks lock only files that are open for writing
    number = os.open(path, flags | os.O_NOFOLLOW)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BaseException:
        os.close(number)
        raise
    return number


def _is_still(path: Path, number: int) -> bool:
    try:
        return os.path.samestat(os.fstat(number), path.lstat())
    except FileNotFoundError:
        return False
