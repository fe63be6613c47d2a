"""JSON objects with a checksum of their contents, by which changes are detected when they are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SEAL = "checksum"


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """The object with its checksum in the field `checksum`."""
    return {**value, SEAL: checksum(value)}


def checksum(value: Mapping[str, Any]) -> str:
    """SHA-256, in hexadecimal, of an object's JSON with sorted keys and no spaces, without the field `checksum`."""
    content = {key: item for key, item in value.items() if key != SEAL}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def is_intact(value: Mapping[str, Any]) -> bool:
    """Whether the checksum matches the contents. True for objects without one, as version 0.1 wrote them."""
    return SEAL not in value or value[SEAL] == checksum(value)
