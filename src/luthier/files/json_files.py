"""JSON objects in files: validated on reading, since they are untrusted, and written indented."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luthier.errors import LuthierError
from luthier.files.reading import read_bytes


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises a LuthierError that names the file and the position for anything else."""
    content = read_bytes(path)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:  # ValueError: invalid JSON or UTF-8
        raise LuthierError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise LuthierError(f"{path} must contain a JSON object, not a {type(value).__name__}")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object as indented JSON."""
    path.write_text(json_text(value), encoding="utf-8")


def json_text(value: Mapping[str, Any]) -> str:
    """An object as indented JSON with a final newline."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
