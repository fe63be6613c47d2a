"""Validated access to the settings in a model file, which is untrusted input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.errors import LuthierError, remark

LARGEST = 2**20  # of a width or a count; products of three still fit 64 bits
LARGEST_CONTEXT = 2**40  # tokens
LARGEST_NUMBER = 2**53  # beyond, floats are no longer whole numbers
LARGEST_EXPERTS = 2**12
LARGEST_DEPTH = 2**12  # layers: each costs memory before any weight is read
LARGEST_HEAD = 2**14  # dimensions of a head


class CheckedValues:
    """The values of a JSON object or of GGUF metadata, validated on access. A null counts as missing; `nulls` has the
    names of those, for settings where it does not.

    source: name of the file, for error messages. Getters raise a LuthierError that names the setting.
    """

    def __init__(self, values: Mapping[str, Any], source: str = "config.json") -> None:
        self.values = {name: value for name, value in values.items() if value is not None}
        self.nulls = {name for name, value in values.items() if value is None}
        self.source = source
        self.used: set[str] = set()  # names that have been read or ignored

    def finite(self, name: str, default: float | None) -> float:
        """A finite number."""
        value = self.value(name, default)
        if value is None:
            raise LuthierError(f"{self.source}: '{name}' is missing")
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < LARGEST_NUMBER:
            raise LuthierError(f"{self.source}: '{name}' must be a number, it is {value!r:.60}")
        return value

    def value(self, name: str, default: Any = None) -> Any:
        """A value of any type, not validated."""
        self.used.add(name)
        return self.values.get(name, default)

    def number(self, name: str, default: float | None = None, *, least: float | None = None) -> float:
        """A number above 0, or at least `least` where that is given."""
        value = self.finite(name, default)
        if value < least if least is not None else value <= 0:
            bound = "above 0" if least is None else f"at least {least:g}"
            raise LuthierError(f"{self.source}: '{name}' must be {bound}, it is {value}")
        return float(value)

    def positive_numbers(self, name: str, most: int) -> tuple[float, ...]:
        """A list of 1 to `most` numbers above 0."""
        value = self.value(name)
        if value is None:
            raise LuthierError(f"{self.source}: '{name}' is missing")
        good = isinstance(value, list) and 0 < len(value) <= most
        if not good or not all(type(number) in (int, float) and 0 < number < LARGEST_NUMBER for number in value):
            raise LuthierError(f"{self.source}: '{name}' must be a list of numbers above 0, it is {value!r:.60}")
        return tuple(map(float, value))

    def probability(self, name: str, default: float) -> float:
        """A number in [0, 1)."""
        value = self.finite(name, default)
        if not 0 <= value < 1:
            raise LuthierError(f"{self.source}: '{name}' must lie from 0 to under 1, it is {value}")
        return float(value)

    def count(self, name: str, default: int | None = None, most: int = LARGEST) -> int:
        """An integer from 1 to `most`."""
        value = self.finite(name, default)
        if value != int(value) or not 1 <= value <= most:
            raise LuthierError(f"{self.source}: '{name}' must be a whole number from 1 to {most}, it is {value}")
        return int(value)

    def head_dim(self, dim: int, n_heads: int, default: int | None = None) -> int | None:
        """Width of a head; None where it is dim / n_heads, the default."""
        size = self.count("head_dim", default or max(1, dim // n_heads))
        return None if size * n_heads == dim else size

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.value(name, default)
        if not isinstance(value, bool):
            raise LuthierError(f"{self.source}: '{name}' must be true or false, it is {value!r:.60}")
        return value

    def integers(self, name: str) -> list[int] | None:
        """A list of integers, or None where the setting is missing."""
        value = self.value(name)
        if value is not None and not (isinstance(value, list) and all(type(number) is int for number in value)):
            raise LuthierError(f"{self.source}: '{name}' must be a list of whole numbers, it is {value!r:.60}")
        return value

    def section(self, name: str) -> CheckedValues:
        """A nested object; empty where it is missing."""
        value = self.value(name, {})
        if not isinstance(value, dict):
            raise LuthierError(f"{self.source}: '{name}' must be an object, it is {value!r:.60}")
        return CheckedValues(value, self.source)

    def require_one_of(self, name: str, *supported: Any) -> None:
        """Raise a LuthierError unless the value is a supported one. The first of them is the default."""
        value = self.value(name, supported[0])
        if value not in supported:
            known = " or ".join(f"{value!r:.60}" for value in supported)
            raise LuthierError(f"{self.source}: '{name}': {value!r:.60} is not supported, only {known}")

    def ignore(self, *names: str) -> None:
        """Mark settings as having no effect, so that `warn_unused` does not report them."""
        self.used.update(names)

    def warn_unused(self, where: str = "") -> None:
        """Warn about settings that were never read: they are not understood, and may matter."""
        others = [name for name in self.values if name not in self.used]
        if others:
            names = ", ".join(f"'{name:.60}'" for name in others[:5]) + (" and more" if len(others) > 5 else "")
            remark(f"{where or self.source}: {names} is not understood here and is not used")
