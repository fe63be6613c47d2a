"""The one error that people see, a clear line that names the thing and the way out; and remarks on what goes on."""

from __future__ import annotations

import warnings


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
