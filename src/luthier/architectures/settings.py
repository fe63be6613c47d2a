"""Bidirectional mapping between the settings in a model file and the fields of a Config.

An entry reads one or more settings of a file into fields of a Config, and writes them from a Config. Entries are read
and written in the order of the list: one that depends on other fields comes after them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor

from luthier.architectures.checked_values import LARGEST, CheckedValues
from luthier.errors import LuthierError
from luthier.formats.weight_table import Checkpoint, Shape
from luthier.model.attention import head_width

C = TypeVar("C")
C_contra = TypeVar("C_contra", contravariant=True)


@dataclass(frozen=True)
class ShapesOnly:
    """A checkpoint of which only names and shapes are known."""

    known: Mapping[str, Shape] = field(default_factory=dict)

    def shapes(self) -> Mapping[str, Shape]:
        return self.known

    def tensor(self, name: str) -> Tensor:
        raise LuthierError(f"'{name}' cannot be read: only its shape is known")


@dataclass(frozen=True)
class WeightInfo:
    """Information from a model's tensors, for settings that its file does not contain."""

    checkpoint: Checkpoint = field(default_factory=ShapesOnly)
    vocab_size: int | None = None
    """Rows of the embedding, where the format's reader knows them."""
    tied: bool = False
    """Whether the output matrix equals the embedding."""


@dataclass(frozen=True)
class Reading:
    """The state of reading a file: its values, and the Config fields read so far."""

    values: CheckedValues
    weights: WeightInfo
    fields: dict[str, Any]
    """By the names of the Config's fields. Shared between a file and its sections."""
    root: CheckedValues
    """The values of the whole file, also within a section."""

    def section(self, name: str) -> Reading:
        """The Reading of a nested object."""
        return Reading(self.values.section(name), self.weights, self.fields, self.root)


class Entry(Protocol[C_contra]):
    """Reads and writes one or more settings of a file."""

    def read(self, reading: Reading) -> None:
        """Add fields to `reading.fields`. Raises a LuthierError that names a wrong or missing setting."""

    def write(self, config: C_contra) -> Mapping[str, Any]:
        """The settings as they appear in the file. Raises a LuthierError for what the format cannot express."""


class Parser(Protocol):
    """Reads and validates one value. default: None where the setting is required."""

    def __call__(self, values: CheckedValues, name: str, default: Any) -> Any: ...


def count(most: int = LARGEST) -> Parser:
    """An integer from 1 to `most`."""
    return lambda values, name, default: values.count(name, default, most)


def positive(values: CheckedValues, name: str, default: Any) -> float:
    """A number above 0."""
    return values.number(name, default)


def probability(values: CheckedValues, name: str, default: Any) -> float:
    """A number in [0, 1)."""
    return values.probability(name, default)


def flag(values: CheckedValues, name: str, default: Any) -> bool:
    """True or false."""
    return values.flag(name, default)


def integers(values: CheckedValues, name: str, default: Any) -> tuple[int, ...] | None:
    """A list of integers, as a tuple."""
    listed = values.integers(name)
    return default if listed is None else tuple(listed)


@dataclass(frozen=True)
class Setting:
    """A setting that corresponds to one field: Setting("rms_norm_eps", "norm_eps", positive, default=1e-6)."""

    name: str
    """In the file."""
    field: str
    """In the Config."""
    parse: Parser
    default: Any = None
    """A value, or a function of the Reading that returns one. None: the setting is required."""

    def read(self, reading: Reading) -> None:
        default = self.default(reading) if callable(self.default) else self.default
        reading.fields[self.field] = self.parse(reading.values, self.name, default)

    def write(self, config: object) -> Mapping[str, Any]:
        value = getattr(config, self.field)
        return {self.name: list(value) if isinstance(value, tuple) else value}


@dataclass(frozen=True)
class OptionalSetting:
    """One setting that is one field, None where there is nothing of the kind.

    default: for a file without the setting. null: whether None is written, as a null; else it is left out.
    """

    name: str
    field: str
    parser: Parser
    default: Any = None
    null: bool = True

    def read(self, reading: Reading) -> None:
        values, name = reading.values, self.name
        if name not in values.values:
            reading.fields[self.field] = None if name in values.nulls else self.default
            return
        reading.fields[self.field] = self.parser(values, name, None)

    def write(self, config: object) -> Mapping[str, Any]:
        value = getattr(config, self.field)
        return {} if value is None and not self.null else {self.name: value}


def same_as(field: str) -> Callable[[Reading], Any]:
    """A default equal to a field that has already been read."""
    return lambda reading: reading.fields[field]


class HeadDim(Protocol):
    """The config fields that determine the width of a head."""

    @property
    def dim(self) -> int: ...
    @property
    def n_heads(self) -> int: ...
    @property
    def head_dim(self) -> int | None: ...


def head_dim(config: HeadDim) -> int:
    """Width of a head. Raises a UsageError where dim does not divide into heads."""
    return head_width(config.dim, config.n_heads, config.head_dim)


@dataclass(frozen=True)
class HeadDimSetting:
    """The width of a head. Always written; None in the Config where it is dim / n_heads."""

    name: str = "head_dim"
    default: int | None = None

    def read(self, reading: Reading) -> None:
        fields = reading.fields
        fields["head_dim"] = reading.values.head_dim(fields["dim"], fields["n_heads"], default=self.default)

    def write(self, config: HeadDim) -> Mapping[str, Any]:
        return {self.name: head_dim(config)}


@dataclass(frozen=True)
class Choice:
    """A setting whose values map to values of a field. The first is the default; the first match is written."""

    name: str
    field: str
    meanings: Mapping[str, Any]

    def read(self, reading: Reading) -> None:
        reading.values.require_one_of(self.name, *self.meanings)
        reading.fields[self.field] = self.meanings[reading.values.value(self.name, next(iter(self.meanings)))]

    def write(self, config: object) -> Mapping[str, Any]:
        value = getattr(config, self.field)
        return {self.name: next(name for name, meaning in self.meanings.items() if meaning == value)}


@dataclass(frozen=True)
class Fixed:
    """A setting with a single supported value, which is the default. also: equivalent values."""

    name: str
    value: Any
    also: tuple[Any, ...] = ()
    written: bool = True

    def read(self, reading: Reading) -> None:
        reading.values.require_one_of(self.name, self.value, *self.also)

    def write(self, config: object) -> Mapping[str, Any]:
        return {self.name: self.value} if self.written else {}


@dataclass(frozen=True)
class WriteOnly:
    """Constant settings, written and not read."""

    values: Mapping[str, Any]

    def read(self, reading: Reading) -> None:
        reading.values.ignore(*self.values)

    def write(self, config: object) -> Mapping[str, Any]:
        return self.values


@dataclass(frozen=True)
class WriteOnlyField:
    """A setting that is written from a field and not read: another setting determines the field."""

    name: str
    field: str

    def read(self, reading: Reading) -> None:
        reading.values.ignore(self.name)

    def write(self, config: object) -> Mapping[str, Any]:
        return {self.name: getattr(config, self.field)}


class Ignored:
    """Settings without effect, by pattern (fnmatch): not written, and not warned about."""

    def __init__(self, *patterns: str) -> None:
        self.patterns = patterns

    def read(self, reading: Reading) -> None:
        values = reading.values
        values.ignore(*(name for name in values.values if any(fnmatchcase(name, p) for p in self.patterns)))

    def write(self, config: object) -> Mapping[str, Any]:
        return {}


class Dropped:
    """Fields that other entries have read and the Config does not have: they follow from the rest."""

    def __init__(self, *fields: str) -> None:
        self.fields = fields

    def read(self, reading: Reading) -> None:
        for name in self.fields:
            del reading.fields[name]

    def write(self, config: object) -> Mapping[str, Any]:
        return {}


@dataclass(frozen=True)
class Unsupported:
    """Fields that the format cannot express: writing a set one is a LuthierError. message: contains {field}."""

    fields: tuple[str, ...]
    message: str

    def read(self, reading: Reading) -> None: ...

    def write(self, config: object) -> Mapping[str, Any]:
        for name in self.fields:
            if getattr(config, name):
                raise LuthierError(self.message.format(field=name))
        return {}


def no_settings(config: object) -> Mapping[str, Any]:
    """The default of `CustomSetting.write_settings`: nothing is written."""
    return {}


@dataclass(frozen=True)
class CustomSetting(Generic[C]):
    """Settings that do not correspond to one field each.

    read_fields: returns fields by name. write_settings: returns settings by name.
    """

    read_fields: Callable[[Reading], Mapping[str, Any]]
    write_settings: Callable[[C], Mapping[str, Any]] = no_settings

    def read(self, reading: Reading) -> None:
        reading.fields.update(self.read_fields(reading))

    def write(self, config: C) -> Mapping[str, Any]:
        return self.write_settings(config)


class Section(Generic[C]):
    """A nested object with its own entries."""

    def __init__(self, name: str, *entries: Entry[C]) -> None:
        self.name, self.entries = name, entries

    def read(self, reading: Reading) -> None:
        within = reading.section(self.name)
        for entry in self.entries:
            entry.read(within)

    def write(self, config: C) -> Mapping[str, Any]:
        return {self.name: {name: value for entry in self.entries for name, value in entry.write(config).items()}}


def warn_unused(values: CheckedValues) -> None:
    """Warn about settings that are not understood."""
    values.warn_unused()


@dataclass(frozen=True)
class SettingList(Generic[C]):
    """All settings of a format for one family."""

    config: type[C]
    entries: tuple[Entry[C], ...]
    find_settings: Callable[[Mapping[str, Any]], CheckedValues] = CheckedValues
    """Get the settings out of the content of the file."""
    finish: Callable[[CheckedValues], None] = warn_unused
    """Called after all entries; warns about settings that no entry has read."""

    def read(self, values: Mapping[str, Any], weights: WeightInfo | None = None, *, source: str | None = None) -> C:
        """The Config of a file. source: name of the file in errors; the format's usual one unless given.

        Raises a LuthierError that names a setting that is missing, wrong or not supported.
        """
        checked = self.find_settings(values)
        checked.source = source or checked.source
        reading = Reading(checked, weights or WeightInfo(), {}, checked)
        for entry in self.entries:
            entry.read(reading)
        self.finish(checked)
        return self.config(**reading.fields)

    def write(self, config: C) -> dict[str, Any]:
        """The settings as they appear in the file. Raises a LuthierError for what the format cannot express."""
        return {name: value for entry in self.entries for name, value in entry.write(config).items()}
