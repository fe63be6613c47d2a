"""One file that changes in one go: a reader, or a machine that stops, finds the old one or the new one, whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from luthier.errors import LuthierError


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yields the path of a hidden file beside `path` to write; when all is well it takes the place of `path`.

    Missing folders are made. On an error `path` stays as it was. Raises a LuthierError where nothing can be written.
    """
    if path.is_dir():
        raise LuthierError(f"{path} is a folder, and this format is one file: name it, as in {path / 'NAME'}")
    hidden = path.with_name(f".{path.name}.saving")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield hidden
        with hidden.open("rb+") as file:
            os.fsync(file.fileno())
        hidden.replace(path)
    except OSError as error:
        raise LuthierError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            hidden.unlink(missing_ok=True)
