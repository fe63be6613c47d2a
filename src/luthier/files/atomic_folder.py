"""Atomic replacement of a folder's files: readers, and a crash, see either the old files or the new."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from luthier.errors import LuthierError
from luthier.files.sync import sync, sync_folder
from luthier.files.unfinished import clear_leftovers, is_unfinished, unfinished

STAGING = "saving"
OLD_STAGING = ".saving"  # left in the folder by version 0.1 when it was killed


@contextmanager
def replacing(folder: Path, *, stale: tuple[str, ...], last: str) -> Iterator[Path]:
    """Yield a hidden folder to write files into; at the end they replace those of `folder` unless an error is raised.

    A new folder is renamed to `folder`; into an existing one, the files are moved.
    stale: patterns of files of an earlier save that are deleted if not written again. last: the file by which the
    folder is recognized. It is moved last, and deleted first if it changes, so that a crash in between leaves a folder
    that is not recognized, never a mix. After an error `folder` is unchanged.
    """
    real = Path(os.path.realpath(folder))
    try:
        if real.is_dir():
            shutil.rmtree(real / OLD_STAGING, ignore_errors=True)
            with unfinished(real / STAGING, folder=True) as staging:
                yield staging
                sync_folder(staging)
                _move_up(staging, real, stale, last)
            sync(real)
        else:
            with unfinished(real, folder=True) as staging:
                yield staging
                sync_folder(staging)
                if real.exists():  # a file, or a folder created meanwhile
                    raise FileExistsError(None, "it already exists")
                staging.rename(real)
            sync(real.parent)
    except OSError as error:
        raise LuthierError(f"cannot write {folder}: {error.strerror or error}") from error


def is_free(folder: Path) -> bool:
    """Whether a new folder can be written here: the path does not exist, or is an empty folder.

    Leftovers of a killed save are removed.
    """
    if not folder.is_dir():
        return not os.path.lexists(folder) or (folder.is_symlink() and not folder.exists())
    clear_leftovers(folder / STAGING)
    names = [path.name for path in folder.iterdir() if not is_unfinished(path)]
    if names == [OLD_STAGING]:
        shutil.rmtree(folder / OLD_STAGING, ignore_errors=True)
        names = []
    return not names


def _move_up(staging: Path, folder: Path, stale: tuple[str, ...], last: str) -> None:
    new = sorted(staging.iterdir(), key=lambda path: (path.name == last, path.name))
    for path in new:
        if (folder / path.name).is_dir():
            raise IsADirectoryError(None, f"{path.name} in it is a folder")
    mark = folder / last
    if mark.exists() and mark.read_bytes() != (staging / last).read_bytes():
        mark.unlink()
        sync(folder)
    for path in new[:-1]:
        path.replace(folder / path.name)
    names = {path.name for path in new}
    for old in [old for pattern in stale for old in folder.glob(pattern) if old.name not in names]:
        old.unlink()
    new[-1].replace(mark)
