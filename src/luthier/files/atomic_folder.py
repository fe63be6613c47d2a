"""Files that change together: a reader, or a machine that stops, finds the old folder or the new one."""

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
OLD_STAGING = ".saving"  # what version 0.1 left in the folder when it was killed


@contextmanager
def replacing(folder: Path, *, stale: tuple[str, ...], last: str) -> Iterator[Path]:
    """Yields a hidden folder to write files into; when all is well they are what `folder` holds.

    A folder that is not there takes its name whole. Into one that is there the files are moved.
    stale: patterns of files of an earlier save that go when they are not written again. last: the file that makes the
    folder what it is. It is moved last, and where it changes the old one goes first, so that a stop in between leaves
    a folder that is not recognized and never a mix. On an error `folder` stays as it was, or is not there.
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
                if real.exists():  # a file, or a folder that came meanwhile
                    raise FileExistsError(None, "it is there already")
                staging.rename(real)
            sync(real.parent)
    except OSError as error:
        raise LuthierError(f"cannot write {folder}: {error.strerror or error}") from error


def is_free(folder: Path) -> bool:
    """Whether a new folder can be written here: nothing is there, or a folder that holds nothing.

    What a save that was killed left there is removed.
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
