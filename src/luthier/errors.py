"""Errors and warnings for users: one clear line that names the problem and the solution.

A message names a setting as the user writes it: `--batch-size` on the command line, `batch_size` in Python and in a
recipe, see `setting`.
"""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class LuthierError(Exception):
    """An error that the user can fix. The command line prints its message on one line and exits with `exit_code`."""

    exit_code = 1


class UsageError(LuthierError):
    """A wrong command line, or a setting out of its range."""

    exit_code = 2


class Remark(UserWarning):
    """A warning for the user. The command line prints it as one line on stderr."""


def remark(text: str) -> None:
    """Warn with a `Remark`."""
    warnings.warn(text, Remark, stacklevel=3)


@dataclass(frozen=True)
class Interface:
    """How the user names settings. Default: by their names in Python and in recipes."""

    options: bool = False  # --batch-size
    model_options: bool = False  # --model.context-length, for commands with options for the model's config


OPTIONS = {"from_model": "from", "format": "to"}  # settings whose option has another name

_used = [Interface()]  # a stack, shared with the command's threads


@contextmanager
def interface(used: Interface) -> Iterator[None]:
    """Within the context, messages name settings for this interface."""
    _used.append(used)
    try:
        yield
    finally:
        _used.pop()


def in_python() -> bool:
    """Whether the user calls Luthier from Python, not from the command line."""
    return not _used[-1].options


def setting(name: str, value: object = None) -> str:
    """A setting, with its value if given, as the user writes it.

    name: as in Python. With the values None and True: the option only.
    """
    return _named(name, value, "" if _used[-1].options else None)


def of_model(name: str, value: object = None) -> str:
    """Like `setting`, for a field of a model's Config."""
    return _named(name, value, "model." if _used[-1].model_options else None)


def _named(name: str, value: object, prefix: str | None) -> str:
    """prefix: of the command line option; None for the Python name."""
    if prefix is None:
        return name if value is None else f"{name}={value!r}"
    option = f"--{prefix}{OPTIONS.get(name, name).replace('_', '-')}"
    return option if value is None or value is True else f"{option} {shlex.quote(str(value))}"
