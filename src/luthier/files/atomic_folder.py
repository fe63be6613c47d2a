"""Files that change together: a reader, or a machine that stops, finds the old folder or the new one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from luthier.errors import LuthierError

STAGING = ".saving"


@contextmanager
def replacing(folder: Path, *, stale: tuple[str, ...], last: str) -> Iterator[Path]:
    """Yields a hidden folder to write files into; when all is well they are moved up into `folder`.

    stale: patterns of files of an earlier save that go when they are not written again. last: the file that makes the
    folder what it is. It is moved last, and where it changes the old one goes first, so that a stop in between leaves
    a folder that is not recognised and never a mix. On an error `folder` stays as it was.
    """
    staging = folder / STAGING
    try:
        shutil.rmtree(staging, ignore_errors=True)  # of a save that was killed
        staging.mkdir(parents=True)
        yield staging
        new = sorted(staging.iterdir(), key=lambda path: (path.name == last, path.name))
        for path in new:
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        mark = folder / last
        if mark.exists() and mark.read_bytes() != (staging / last).read_bytes():
            mark.unlink()
        for path in new[:-1]:
            path.replace(folder / path.name)
        names = {path.name for path in new}
        for old in [old for pattern in stale for old in folder.glob(pattern) if old.name not in names]:
            old.unlink()
        new[-1].replace(mark)
    except OSError as error:
        raise LuthierError(f"cannot save into {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
