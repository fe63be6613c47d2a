"""JSON objects in files: read with care, since they come from outside, and written to be read by people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luthier.errors import LuthierError
from luthier.files.reading import read_bytes


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Anything else is a LuthierError that names the file and the place."""
    content = read_bytes(path)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:  # ValueError: of JSON and of UTF-8
        raise LuthierError(f"{path} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise LuthierError(f"{path} must hold a JSON object, it holds a {type(value).__name__}")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object, indented, with a line end."""
    path.write_text(json_text(value), encoding="utf-8")


def json_text(value: Mapping[str, Any]) -> str:
    """An object as people read it: indented, with a line end."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
