"""One file that changes in one go: a reader, or a machine that stops, finds the old one or the new one, whole."""

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

PAGE = b"<!doctype html>"  # how the pages that we write begin
OWN_STREAMS = ("/dev/fd/", "/dev/std", "/proc/")  # links to what is open already: never replaced, appended to


@contextmanager
def replacing_file(path: Path, *, begins: bytes = b"") -> Iterator[Path]:
    """Yields the path of a hidden file beside `path` to write; when all is well it takes the place of `path`.

    Missing folders are made. A symbolic link is followed: the file that it names is replaced. A device or a pipe is
    written into. begins: how a file of this kind begins; one that begins otherwise is refused. On an error `path` stays
    as it was. Raises a LuthierError for that, for a folder, and where nothing can be written.
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
    """Put a file in its place in one step: see `replacing_file`."""
    with replacing_file(path, begins=begins) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def check_writable(path: Path, *, begins: bytes = b"") -> None:
    """A LuthierError where `replacing_file` would raise one: better known before a long computation than after it."""
    try:
        if not is_special(path):
            target = Path(os.path.realpath(path))
            _refuse(path, target, begins)
            with unfinished(target):
                pass
    except OSError as error:
        raise LuthierError(f"cannot write {path}: {error.strerror or error}") from None


def is_special(path: Path) -> bool:
    """Whether a path is something to write into that cannot be replaced: a device, a pipe, a stream of our own."""
    if os.path.abspath(path).startswith(OWN_STREAMS):  # noqa: PTH100 (resolve would follow the links)
        return True
    with contextlib.suppress(OSError):
        mode = path.stat().st_mode
        return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)
    return False


def _refuse(path: Path, target: Path, begins: bytes) -> None:
    """A LuthierError for a place whose present content must not go."""
    try:
        status = target.stat()
    except FileNotFoundError:
        return
    if stat.S_ISDIR(status.st_mode):
        raise LuthierError(f"{path} is a folder, and what is written is one file: name it, as in {path / 'NAME'}")
    if not os.access(target, os.W_OK):
        raise LuthierError(f"cannot write {path}: it is read-only")
    with target.open("rb") as file:
        found = file.read(len(begins))
    if found and found != begins:
        raise LuthierError(f"{path} is there already, a file of another kind: name another place, or delete it first")


def _write_through(part: Path, path: Path) -> None:
    # append: what the shell's >> put before stays; devices and pipes do not mind
    with part.open("rb") as source, os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND), "wb", buffering=0) as sink:
        shutil.copyfileobj(source, sink)
