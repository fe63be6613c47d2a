"""Convert flat dataclasses to and from TOML and JSON tables, with one-line errors for wrong keys and values."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from luthier.errors import LuthierError, UsageError

Table = TypeVar("Table")
NONE = "none"  # represents None in a table where None is not the default
PLACE = re.compile(r"(.*) - at `\$\.(.*)`")  # msgspec's error message: problem and location


def from_table(kind: type[Table], table: Mapping[str, Any], where: str) -> Table:
    """A dataclass from a table. `where` names the file or the option in errors.

    An unknown key is a UsageError that names the nearest known one; a wrong type says which is expected. None and
    missing keys leave the default. "none" is None where that is not the default (see to_table).
    """
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise UsageError(f"{where} has no setting {key}: {hint}")
    given = {key: value for key, value in table.items() if value is not None}
    given |= {key: None for key in optional(kind) if given.get(key) == NONE}
    import msgspec  # late: `luthier generate` does not need it

    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        found = PLACE.search(str(error))
        raise UsageError(f"{where}: {found[2]}: {found[1]}" if found else f"{where}: {error}") from None


def check_table(kind: type[Table], table: Mapping[str, Any], where: str) -> None:
    """Raise the errors that `from_table` would; errors about combinations of values name `where` too."""
    try:
        from_table(kind, table, where)
    except UsageError as error:
        raise UsageError(str(error) if where in str(error) else f"{where}: {error}") from None


def to_table(instance: Any) -> dict[str, Any]:
    """A table of a dataclass's fields. TOML has no null: a field that is None is left out if that is its default, and
    written as "none" otherwise.
    """
    named = optional(type(instance))
    table = {key: NONE if value is None and key in named else value for key, value in asdict(instance).items()}
    return {key: value for key, value in table.items() if value is not None}


def optional(kind: type[Any]) -> list[str]:
    """The fields that may be None but are not by default."""
    return [field.name for field in fields(kind) if "None" in str(field.type) and field.default is not None]


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file. Raises a LuthierError that names the file and, for invalid TOML, the line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LuthierError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LuthierError(f"{path} is not TOML: {error}") from None


def toml_text(table: Mapping[str, Any]) -> str:
    """A table as TOML."""
    return tomli_w.dumps(table)
