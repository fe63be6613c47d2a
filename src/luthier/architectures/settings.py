"""The settings of a model in a file, as one list that is read in both directions.

An entry of the list reads one or more settings of a file into fields of a Config, and writes them from a Config.
Entries are read, and written, in the order of the list: one that needs the fields of others stands after them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor

from luthier.architectures.checked_values import LARGEST, CheckedValues
from luthier.errors import LuthierError
from luthier.formats.names import Checkpoint, Shape

C = TypeVar("C")
C_contra = TypeVar("C_contra", contravariant=True)


@dataclass(frozen=True)
class Shapes:
    """A checkpoint of which only the names and shapes are known."""

    known: Mapping[str, Shape] = field(default_factory=dict)

    def shapes(self) -> Mapping[str, Shape]:
        return self.known

    def tensor(self, name: str) -> Tensor:
        raise LuthierError(f"'{name}' cannot be read: only its shape is known")


@dataclass(frozen=True)
class Weights:
    """What is known of a model from its tensors, for settings that its file does not hold."""

    checkpoint: Checkpoint = field(default_factory=Shapes)
    vocab_size: int | None = None
    """Rows of the embedding, where the reader of the format has found them."""
    tied: bool = False
    """Whether the output matrix equals the embedding."""


@dataclass(frozen=True)
class Reading:
    """The state of reading a file: its values, and the fields of the Config that have been read."""

    values: CheckedValues
    weights: Weights
    fields: dict[str, Any]
    """By the names of the Config's fields. Sections share them with the file that they are in."""
    root: CheckedValues
    """The values of the whole file, in a section too."""

    def section(self, name: str) -> Reading:
        """The same for a nested object."""
        return Reading(self.values.section(name), self.weights, self.fields, self.root)


class Entry(Protocol[C_contra]):
    """One or more settings of a file, in both directions."""

    def read(self, reading: Reading) -> None:
        """Add fields to `reading.fields`. Raises a LuthierError that names a setting that is wrong or missing."""

    def write(self, config: C_contra) -> Mapping[str, Any]:
        """The settings as the file has them. Raises a LuthierError for what the format cannot express."""


class Kind(Protocol):
    """Read and check one value. missing: its default; None where the file must have it."""

    def __call__(self, values: CheckedValues, name: str, missing: Any) -> Any: ...


def count(most: int = LARGEST) -> Kind:
    """A whole number from 1 to `most`."""
    return lambda values, name, missing: values.count(name, missing, most)


def positive(values: CheckedValues, name: str, missing: Any) -> float:
    """A number above 0."""
    return values.number(name, missing)


def probability(values: CheckedValues, name: str, missing: Any) -> float:
    """A number from 0 to under 1."""
    return values.share(name, missing)


def flag(values: CheckedValues, name: str, missing: Any) -> bool:
    """True or false."""
    return values.flag(name, missing)


def integers(values: CheckedValues, name: str, missing: Any) -> tuple[int, ...] | None:
    """A list of whole numbers, as a tuple."""
    listed = values.numbers(name)
    return missing if listed is None else tuple(listed)


@dataclass(frozen=True)
class Setting:
    """One setting that is one field: Setting("rms_norm_eps", "norm_eps", positive, missing=1e-6)."""

    name: str
    """In the file."""
    field: str
    """In the Config."""
    kind: Kind
    missing: Any = None
    """The default: a value, or a function of the Reading that gives it. None: the file must have it."""

    def read(self, reading: Reading) -> None:
        missing = self.missing(reading) if callable(self.missing) else self.missing
        reading.fields[self.field] = self.kind(reading.values, self.name, missing)

    def write(self, config: object) -> Mapping[str, Any]:
        value = getattr(config, self.field)
        return {self.name: list(value) if isinstance(value, tuple) else value}


def same_as(field: str) -> Callable[[Reading], Any]:
    """The default of a setting that is that of a field read before."""
    return lambda reading: reading.fields[field]


class HeadDim(Protocol):
    """The fields that the width of a head follows from."""

    @property
    def dim(self) -> int: ...
    @property
    def n_heads(self) -> int: ...
    @property
    def head_dim(self) -> int | None: ...


def head_dim(config: HeadDim) -> int:
    """Width of a head."""
    return config.head_dim or config.dim // config.n_heads


@dataclass(frozen=True)
class HeadDimSetting:
    """The width of a head. Always written; in the Config it is None where the heads divide dim."""

    name: str = "head_dim"
    missing: int | None = None

    def read(self, reading: Reading) -> None:
        fields = reading.fields
        fields["head_dim"] = reading.values.head_dim(fields["dim"], fields["n_heads"], default=self.missing)

    def write(self, config: HeadDim) -> Mapping[str, Any]:
        return {self.name: head_dim(config)}


@dataclass(frozen=True)
class Choice:
    """A setting whose values each mean one value of a field. The first is the default; the first match is written."""

    name: str
    field: str
    meanings: Mapping[str, Any]

    def read(self, reading: Reading) -> None:
        reading.values.only(self.name, *self.meanings)
        reading.fields[self.field] = self.meanings[reading.values.value(self.name, next(iter(self.meanings)))]

    def write(self, config: object) -> Mapping[str, Any]:
        value = getattr(config, self.field)
        return {self.name: next(name for name, meaning in self.meanings.items() if meaning == value)}


@dataclass(frozen=True)
class Fixed:
    """A setting with one value that is supported, the default. also: other values that mean the same."""

    name: str
    value: Any
    also: tuple[Any, ...] = ()
    written: bool = True

    def read(self, reading: Reading) -> None:
        reading.values.only(self.name, self.value, *self.also)

    def write(self, config: object) -> Mapping[str, Any]:
        return {self.name: self.value} if self.written else {}


@dataclass(frozen=True)
class Written:
    """Settings that are written as they are, and not checked when a file is read."""

    values: Mapping[str, Any]

    def read(self, reading: Reading) -> None:
        reading.values.pass_over(*self.values)

    def write(self, config: object) -> Mapping[str, Any]:
        return self.values


@dataclass(frozen=True)
class Repeat:
    """A setting that is written with the value of a field, and not read: another one holds the field."""

    name: str
    field: str

    def read(self, reading: Reading) -> None:
        reading.values.pass_over(self.name)

    def write(self, config: object) -> Mapping[str, Any]:
        return {self.name: getattr(config, self.field)}


class Ignored:
    """Settings that have no effect here, by pattern (fnmatch): not remarked on, and not written."""

    def __init__(self, *patterns: str) -> None:
        self.patterns = patterns

    def read(self, reading: Reading) -> None:
        values = reading.values
        values.pass_over(*(name for name in values.values if any(fnmatchcase(name, p) for p in self.patterns)))

    def write(self, config: object) -> Mapping[str, Any]:
        return {}


@dataclass(frozen=True)
class Unsupported:
    """Fields that the format cannot express: a LuthierError where one is set. message: with {field} in it."""

    fields: tuple[str, ...]
    message: str

    def read(self, reading: Reading) -> None: ...

    def write(self, config: object) -> Mapping[str, Any]:
        for name in self.fields:
            if getattr(config, name):
                raise LuthierError(self.message.format(field=name))
        return {}


def nothing(config: object) -> Mapping[str, Any]:
    """No settings to write."""
    return {}


@dataclass(frozen=True)
class Group(Generic[C]):
    """What does not fit one setting and one field. read: gives fields by name. write: gives settings."""

    reads: Callable[[Reading], Mapping[str, Any]]
    writes: Callable[[C], Mapping[str, Any]] = nothing

    def read(self, reading: Reading) -> None:
        reading.fields.update(self.reads(reading))

    def write(self, config: C) -> Mapping[str, Any]:
        return self.writes(config)


class Section(Generic[C]):
    """A nested object with entries of its own."""

    def __init__(self, name: str, *entries: Entry[C]) -> None:
        self.name, self.entries = name, entries

    def read(self, reading: Reading) -> None:
        within = reading.section(self.name)
        for entry in self.entries:
            entry.read(within)

    def write(self, config: C) -> Mapping[str, Any]:
        return {self.name: {name: value for entry in self.entries for name, value in entry.write(config).items()}}


def mention_others(values: CheckedValues) -> None:
    """Remark on settings that are not understood."""
    values.mention_others()


@dataclass(frozen=True)
class SettingList(Generic[C]):
    """All the settings of a format for one family."""

    config: type[C]
    entries: tuple[Entry[C], ...]
    opens: Callable[[Mapping[str, Any]], CheckedValues] = CheckedValues
    """Find the settings in what the file holds."""
    closes: Callable[[CheckedValues], None] = mention_others
    """Remark on what no entry has read."""

    def read(self, values: Mapping[str, Any], weights: Weights | None = None, *, source: str | None = None) -> C:
        """The Config of a file. source: its name for errors, where that is not the format's usual one.

        Raises a LuthierError that names a setting that is missing, wrong or not supported.
        """
        checked = self.opens(values)
        checked.source = source or checked.source
        reading = Reading(checked, weights or Weights(), {}, checked)
        for entry in self.entries:
            entry.read(reading)
        self.closes(checked)
        return self.config(**reading.fields)

    def write(self, config: C) -> dict[str, Any]:
        """The settings as the file has them. Raises a LuthierError for what the format cannot express."""
        return {name: value for entry in self.entries for name, value in entry.write(config).items()}
