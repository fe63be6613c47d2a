"""Small files, read whole: errors name the file."""

from __future__ import annotations

from pathlib import Path

from luthier.errors import LuthierError

LARGEST = 256 * 2**20  # bytes: the tokenizers and indices of the largest published models are a tenth of it


def read_bytes(path: Path, largest: int = LARGEST) -> bytes:
    """A file's content. Raises a LuthierError for one that cannot be read or is larger than so many bytes."""
    try:
        with path.open("rb") as file:
            content = file.read(largest + 1)
    except OSError as error:
        raise LuthierError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(content) > largest:
        raise LuthierError(f"{path} is larger than {largest // 2**20} MB, and no such file is")
    return content


def read_text(path: Path) -> str:
    """A file's content, which must be UTF-8. Line ends stay as they are."""
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise LuthierError(f"{path} is not UTF-8: byte {error.start} is wrong") from None
