"""Atomic replacement of a file: readers, and a crash, see either the old content or the new."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from luthier.errors import LuthierError
from luthier.files.sync import sync
from luthier.files.unfinished import scratch_folder, unfinished

PAGE = b"<!doctype html>"  # first bytes of the HTML pages that Luthier writes
OWN_STREAMS = ("/dev/fd/", "/dev/std", "/proc/")  # links to open files: appended to, never replaced


@contextmanager
def replacing_file(path: Path, *, begins: bytes = b"") -> Iterator[Path]:
    """Yield the path of a hidden file beside `path` to write; it replaces `path` at the end unless an error is raised.

    Missing parent folders are created. A symbolic link is followed: its target is replaced. Devices and pipes are
    written to directly. begins: expected first bytes; an existing file that begins differently is not replaced. Raises
    a LuthierError for that, for a folder, and if `path` cannot be written; then `path` is unchanged.
    """
    try:
        if is_special(path):
            with scratch_folder("output") as folder:
                part = folder / (path.name or "file")
                part.touch()
                yield part
                _write_through(part, path)
            return
        target = Path(os.path.realpath(path))
        _refuse(path, target, begins)
        with unfinished(target) as part:
            yield part
            if target.exists():
                part.chmod(stat.S_IMODE(target.stat().st_mode))
            sync(part)
            part.replace(target)
        sync(target.parent)
    except OSError as error:
        raise LuthierError(f"cannot write {path}: {error.strerror or error}") from error


def write_file(path: Path, content: str | bytes, *, begins: bytes = b"") -> None:
    """Write a file atomically, see `replacing_file`."""
    with replacing_file(path, begins=begins) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def check_writable(path: Path, *, begins: bytes = b"") -> None:
    """Raise the LuthierError that `replacing_file` would raise; called before a long computation."""
    try:
        if not is_special(path):
            target = Path(os.path.realpath(path))
            _refuse(path, target, begins)
            with unfinished(target):
                pass
    except OSError as error:
        raise LuthierError(f"cannot write {path}: {error.strerror or error}") from None


def is_special(path: Path) -> bool:
    """Whether a path can be written but not replaced: a device, a pipe, or one of this process's streams."""
    if os.path.abspath(path).startswith(OWN_STREAMS):  # noqa: PTH100 (resolve would follow the links)
        return True
    with contextlib.suppress(OSError):
        mode = path.stat().st_mode
        return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)
    return False


def _refuse(path: Path, target: Path, begins: bytes) -> None:
    """Raise a LuthierError if the existing content of a path must not be replaced."""
    try:
        status = target.stat()
    except FileNotFoundError:
        return
    if stat.S_ISDIR(status.st_mode):
        raise LuthierError(f"{path} is a folder: name a file in it, as in {path / 'NAME'}")
    if not os.access(target, os.W_OK):
        raise LuthierError(f"cannot write {path}: it is read-only")
    with target.open("rb") as file:
        found = file.read(len(begins))
    if found and found != begins:
        raise LuthierError(
            f"{path} already exists and is a file of another kind: choose another name, or delete it first"
        )


def _write_through(part: Path, path: Path) -> None:
    # append: keeps what the shell's >> wrote before; devices and pipes ignore it
    with part.open("rb") as source, os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND), "wb", buffering=0) as sink:
        shutil.copyfileobj(source, sink)
