"""A tokenizer's files, read and written whole: errors name the file, and no half file is ever seen."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from luthier.errors import LuthierError


def read_bytes(path: Path) -> bytes:
    """A file's content."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise LuthierError(f"{path} cannot be read: {error.strerror or error}") from None


def read_text(path: Path) -> str:
    """A file's content, which must be UTF-8. Line ends stay as they are."""
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise LuthierError(f"{path} is not UTF-8: byte {error.start} is wrong") from None


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise LuthierError(f"{path} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise LuthierError(f"{path} must hold a JSON object, it holds a {type(value).__name__}")
    return value


def write(path: Path, content: str | bytes) -> None:
    """Put a file in its place in one step."""
    data = content.encode() if isinstance(content, str) else content
    part = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number, part = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        with os.fdopen(number, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(part).chmod(0o666 & ~_umask())  # mkstemp's own mode would keep other people from reading
        Path(part).replace(path)
    except OSError as error:
        if part:
            Path(part).unlink(missing_ok=True)
        raise LuthierError(f"cannot write {path}: {error.strerror or error}") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
