"""The documents of files, without a corpus around them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from luthier.data.finding import find_files
from luthier.data.text import Piece, Reading, join, read_file


def read_pieces(path: str | Path, **how: Any) -> Iterator[Piece]:
    """Clean documents of a file, folder or glob, in pieces. how: the fields of `Reading`."""
    for file in find_files(path):
        yield from read_file(file, Reading(**how))


def read_documents(path: str | Path, **how: Any) -> Iterator[str]:
    """The same, each document as one string."""
    return join(read_pieces(path, **how))
