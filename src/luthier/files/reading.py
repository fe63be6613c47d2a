"""Read small files completely, with errors that name the file."""

from __future__ import annotations

from pathlib import Path

from luthier.errors import LuthierError

LARGEST = 256 * 2**20  # bytes: ten times the tokenizers and indices of the largest published models


def read_bytes(path: Path, largest: int = LARGEST) -> bytes:
    """The content of a file. Raises a LuthierError if it cannot be read or is larger than `largest` bytes."""
    try:
        with path.open("rb") as file:
            content = file.read(largest + 1)
    except OSError as error:
        raise LuthierError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(content) > largest:
        raise LuthierError(f"{path} is larger than {largest // 2**20} MB: no file of this kind is")
    return content


def read_text(path: Path) -> str:
    """The content of a UTF-8 file, with unchanged line ends. Raises a LuthierError."""
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise LuthierError(f"{path} is not UTF-8: byte {error.start} is wrong") from None
