"""Errors for people: one clear line that names the thing and the way out; and remarks, which stop nothing.

A message names a setting as its reader writes it: `--batch-size` on the command line, `batch_size` in Python and in a
recipe. `setting` knows which.
"""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class LuthierError(Exception):
    """Something the user can mend. The command line prints its message on one line and exits with `exit_code`."""

    exit_code = 1


class UsageError(LuthierError):
    """A wrong command line, or a setting outside its range."""

    exit_code = 2


class Remark(UserWarning):
    """Something that a person should know and that stops nothing. The command line prints it as one line on stderr."""


def remark(text: str) -> None:
    """Warn with a `Remark`."""
    warnings.warn(text, Remark, stacklevel=3)


@dataclass(frozen=True)
class Interface:
    """How the reader of a message names settings. As it is: by Python's names, which are those of recipes too."""

    options: bool = False  # --batch-size
    model_options: bool = False  # --model.context-length, where the command has options for a model's settings


OPTIONS = {"from_model": "from"}  # settings whose option has another name: `from` is a keyword of Python

_used = [Interface()]  # the last one holds; plain, for the threads of a command too


@contextmanager
def interface(used: Interface) -> Iterator[None]:
    """Within the context, messages name settings in this way."""
    _used.append(used)
    try:
        yield
    finally:
        _used.pop()


def in_python() -> bool:
    """Whether the reader of a message writes Python, not a command line."""
    return not _used[-1].options


def setting(name: str, value: object = None) -> str:
    """A setting, and its value where one is given, as the reader of a message writes it.

    name: as in Python. None and True as values: the option alone.
    """
    return _named(name, value, "" if _used[-1].options else None)


def of_model(name: str, value: object = None) -> str:
    """The same for a field of a model's Config."""
    return _named(name, value, "model." if _used[-1].model_options else None)


def _named(name: str, value: object, prefix: str | None) -> str:
    """prefix: of the command line's option; None: by Python's name."""
    if prefix is None:
        return name if value is None else f"{name}={value!r}"
    option = f"--{prefix}{OPTIONS.get(name, name).replace('_', '-')}"
    return option if value is None or value is True else f"{option} {shlex.quote(str(value))}"
