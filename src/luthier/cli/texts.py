"""Texts that a command line gives: prompts as arguments, or on stdin."""

from __future__ import annotations

import os
import sys

from luthier.errors import LuthierError, UsageError


def given_text(text: str, what: str) -> str:
    """The text of an argument, which may have come as bytes that the locale's encoding does not know (PEP 383).

    what: names the argument in a UsageError for bytes that are not UTF-8.
    """
    if text.isascii():
        return text
    try:
        return os.fsencode(text).decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{what} is not UTF-8: its byte {error.start + 1} is 0x{error.object[error.start]:02x}"
        ) from None
    except UnicodeEncodeError:  # half of a surrogate pair, which no command line gives
        return text


def text_or_stdin(argument: str, what: str) -> str:
    """The text of an argument, or of stdin where it is -."""
    return read_stdin() if argument == "-" else given_text(argument, what)


def read_stdin() -> str:
    """The prompt on stdin, without the line end that `echo` and editors add."""
    if sys.stdin is None:
        raise UsageError("- reads the text from stdin, which is closed")
    try:
        return sys.stdin.buffer.read().decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise LuthierError(f"the prompt on stdin is not UTF-8: byte {error.start} is wrong") from None
    except OSError as error:  # a folder, say
        raise LuthierError(f"stdin cannot be read: {error.strerror}") from None
