"""Hidden names for what is not finished: locked while its process lives, cleared by the next one when it has died.

What will be NAME is written as `.NAME.0123abcd.unfinished` beside it. The operating system drops the lock (flock)
however the process ends, so what is not locked was left by a process that was killed. Where a disk has no such locks
(some network disks, Windows) nothing is taken for a leftover.
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
LONGEST = 200  # bytes of NAME that are kept: names end at 255
TRIES = 100


@contextmanager
def unfinished(target: Path, *, folder: bool = False, mode: int = 0o777) -> Iterator[Path]:
    """Yields an empty hidden file, or folder, beside `target` to write; rename it to `target` when it is whole.

    Missing parent folders are made. What is not renamed is removed at the end. What dead processes left of the same
    target is removed first. mode: permissions of a folder. Raises OSError.
    """
    with contextlib.suppress(FileExistsError):  # it is a file: creating a name in it says so better
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
    """A folder among the temporary files that only this user can read.

    It is removed at the end, or by the next one of this name if the process dies.
    """
    with unfinished(Path(tempfile.gettempdir()) / f"luthier-{name}", folder=True, mode=0o700) as folder:
        yield folder


def clear_leftovers(target: Path) -> None:
    """Remove what dead processes left of `target`."""
    ours = re.compile(re.escape(_stem(target)) + r"[0-9a-f]{8}" + re.escape(SUFFIX))
    with contextlib.suppress(OSError):
        for path in target.parent.iterdir():
            if ours.fullmatch(path.name):
                _remove_if_left(path)


def is_unfinished(path: Path) -> bool:
    """Whether a path has such a name."""
    return path.name.startswith(".") and path.name.endswith(SUFFIX)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it, as far as the system lets us."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder so that a process which is killed on the way leaves no half of it under its name."""
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
        except FileNotFoundError:  # another process took it for a leftover before it was locked
            continue
        except OSError:  # no locks on this disk
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
    except OSError:  # locked by a living process, or no locks on this disk
        return
    if lock is None:
        return
    try:
        if _is_still(path, lock):  # else it has just been finished and renamed
            remove(path)
    finally:
        os.close(lock)


def _lock(path: Path, *, wait: bool) -> int | None:
    """An open number that holds the lock; None where the system has none. Raises OSError when it is held elsewhere."""
    if sys.platform == "win32":
        return None
    import fcntl

    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR  # network disks lock only what is open for writing
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
