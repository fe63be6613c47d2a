"""The settings of a model as a file gives them, each checked when it is taken: they come from outside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.errors import LuthierError

LARGEST = 2**20  # of a width or a count; products of three still fit 64 bits
LARGEST_CONTEXT = 2**40  # tokens
LARGEST_NUMBER = 2**53  # beyond, floats are no longer whole numbers
LARGEST_EXPERTS = 2**12
LARGEST_DEPTH = 2**12  # layers: each costs memory before any weight is read


class ConfigJson:
    """The values of a config.json, each checked when it is taken. A null counts as missing.

    source: what errors call the values, where they come from elsewhere.
    """

    def __init__(self, values: Mapping[str, Any], source: str = "config.json") -> None:
        self.values = {name: value for name, value in values.items() if value is not None}
        self.source = source

    def finite(self, name: str, default: float | None) -> float:
        """A finite number."""
        value = self.values.get(name, default)
        if value is None:
            raise LuthierError(f"{self.source}: '{name}' is missing")
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < LARGEST_NUMBER:
            raise LuthierError(f"{self.source}: '{name}' must be a number, it is {value!r:.60}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A number above 0."""
        value = self.finite(name, default)
        if value <= 0:
            raise LuthierError(f"{self.source}: '{name}' must be above 0, it is {value}")
        return float(value)

    def share(self, name: str, default: float) -> float:
        """A number from 0 to under 1."""
        value = self.finite(name, default)
        if not 0 <= value < 1:
            raise LuthierError(f"{self.source}: '{name}' must lie from 0 to under 1, it is {value}")
        return float(value)

    def count(self, name: str, default: int | None = None, most: int = LARGEST) -> int:
        """A whole number from 1 to `most`."""
        value = self.finite(name, default)
        if value != int(value) or not 1 <= value <= most:
            raise LuthierError(f"{self.source}: '{name}' must be a whole number from 1 to {most}, it is {value}")
        return int(value)

    def head_dim(self, dim: int, n_heads: int, default: int | None = None) -> int | None:
        """Width of a head; None where the heads divide dim, as they do unless told otherwise."""
        size = self.count("head_dim", default or max(1, dim // n_heads))
        return None if size * n_heads == dim else size

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.values.get(name, default)
        if not isinstance(value, bool):
            raise LuthierError(f"{self.source}: '{name}' must be true or false, it is {value!r:.60}")
        return value

    def numbers(self, name: str) -> list[int] | None:
        """A list of whole numbers, or None where there is none."""
        value = self.values.get(name)
        if value is not None and not (isinstance(value, list) and all(type(number) is int for number in value)):
            raise LuthierError(f"{self.source}: '{name}' must be a list of whole numbers, it is {value!r:.60}")
        return value

    def section(self, name: str) -> ConfigJson:
        """An object within, empty where there is none."""
        value = self.values.get(name, {})
        if not isinstance(value, dict):
            raise LuthierError(f"{self.source}: '{name}' must be an object, it is {value!r:.60}")
        return ConfigJson(value, self.source)

    def only(self, name: str, *supported: Any) -> None:
        """Refuse a setting that we cannot honour. The first supported value is what a missing one means."""
        value = self.values.get(name, supported[0])
        if value not in supported:
            known = " or ".join(f"{value!r:.60}" for value in supported)
            raise LuthierError(f"{self.source}: '{name}': {value!r:.60} is not supported, only {known}")
