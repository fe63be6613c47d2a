"""The one error that people see: a clear line that names the thing and the way out."""

from __future__ import annotations


class LuthierError(Exception):
    """Something the user can mend. The command line prints its message on one line and exits with `exit_code`."""

    exit_code = 1


class UsageError(LuthierError):
    """A wrong command line, or a setting outside its range."""

    exit_code = 2
