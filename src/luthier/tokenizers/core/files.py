"""A tokenizer's files, read whole: errors name the file."""

from __future__ import annotations

import json
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
