"""Digests of many files at once: all cores read, and what takes seconds shows its progress."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

from luthier.errors import LuthierError
from luthier.terminal.progress import progress

BLOCK = 1 << 22  # bytes read at once
QUIET = 1 << 28  # bytes that are read in less than a second: no progress is shown for them
THREADS = 8  # hashing lets go of Python's lock, and no disk feeds more


def digests(paths: Sequence[Path], what: str, inspect: Callable[[Path, int, bytes], object] | None = None) -> list[str]:
    """The sha256 of each file, in hexadecimal. `what` names the job where its progress is shown.

    inspect: told of each block of a file, with its offset in bytes. Raises LuthierError for a file that cannot be read,
    and what `inspect` raises, for the first file that is wrong.
    """

    def digest(path: Path) -> str:
        found, offset = hashlib.sha256(), 0
        try:
            with path.open("rb") as file:
                while block := file.read(BLOCK):
                    found.update(block)
                    if inspect is not None:
                        inspect(path, offset, block)
                    offset += len(block)
                    advance(len(block))
        except OSError as error:
            raise LuthierError(f"{path}: cannot be read: {error.strerror or error}") from error
        return found.hexdigest()

    size = sum(path.stat().st_size for path in paths if path.is_file())
    shown = progress(what, size) if size > QUIET else nullcontext(lambda more: None)
    with shown as advance, ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        try:
            return list(pool.map(digest, paths))
        except BaseException:  # Ctrl-C too: what has not begun is not waited for
            pool.shutdown(wait=False, cancel_futures=True)
            raise
