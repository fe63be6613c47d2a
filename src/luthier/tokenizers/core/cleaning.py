r"""Text cleaning before tokenization, with the same rules for training text and prompts.

Line ends become \n (\r\n, \r, and the separators that words must not be joined across: vertical tab, form feed, the
separators of ASCII, next line); the byte order mark at the beginning and all other control characters but \t go; then
Unicode is normalized (https://unicode.org/reports/tr15/).

A tokenizer keeps the rules as the first steps of its backend's normalizer, so that tokenizer.json has them and
`transformers` applies them too. `clean` does the same in Python, many times faster.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any, Literal

from tokenizers import Tokenizer as Backend
from tokenizers.normalizers import Sequence

Normalization = Literal["NFC", "NFKC", "none"]
FORMS: tuple[Normalization, ...] = ("none", "NFC", "NFKC")  # each includes the ones before it
CLEANING = "Cleaning"  # the type that represents these steps in `steps.steps`

MARK = "\ufeff"  # the byte order mark
_LINE_ENDS = "\x0b\x0c\x1c-\x1f\x85"
_CONTROL = "\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"  # neither \t, \n, \r nor one of the above
_UNCLEAN = re.compile(f"[{_CONTROL}{_LINE_ENDS}\r]|\\A{MARK}")
_BREAK = re.compile(f"\r\n?|[{_LINE_ENDS}]")
_DROPPED = re.compile(f"[{_CONTROL}]")


def clean(text: str, normalization: Normalization) -> str:
    """Clean a complete text. Idempotent."""
    if _UNCLEAN.search(text):
        text = without_control(text).lstrip(MARK)
    return text if normalization == "none" else unicodedata.normalize(normalization, text)


def without_control(text: str) -> str:
    """Unify line ends and drop control characters in a part of a text."""
    return _DROPPED.sub("", _BREAK.sub("\n", text))


def put_on(backend: Backend, normalization: Normalization) -> None:
    """Set the cleaning steps at the start of a backend's normalizer, replacing previous ones."""
    _, rest = taken_off([] if backend.normalizer is None else _steps_of(backend.normalizer))
    normalizer = Sequence([])
    state = {"type": "Sequence", "normalizers": [*_steps(normalization), *rest]}
    normalizer.__setstate__(json.dumps(state).encode())
    backend.normalizer = normalizer


def taken_off(steps: list[dict[str, Any]]) -> tuple[Normalization | None, list[dict[str, Any]]]:
    """(cleaning, remaining steps) of a normalizer's steps; cleaning is None if it has none."""
    for form in reversed(FORMS):  # "none" is the beginning of the others
        mine = _steps(form)
        if steps[: len(mine)] == mine:
            return form, steps[len(mine) :]
    return None, steps


def _steps_of(normalizer: Any) -> list[dict[str, Any]]:
    state = json.loads(normalizer.__getstate__())
    inner: list[dict[str, Any]] = state["normalizers"] if state["type"] == "Sequence" else [state]
    return inner


def _steps(normalization: Normalization) -> list[dict[str, Any]]:
    r"""The steps of `clean` for tokenizer.json. \A, not ^, which matches at the start of every line there."""
    rules = ((f"\r\n?|[{_LINE_ENDS}]", "\n"), (f"[{_CONTROL}]", ""), (f"\\A{MARK}+", ""))
    found: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"Regex": _escaped(rule)}, "content": new} for rule, new in rules
    ]
    return found if normalization == "none" else [*found, {"type": normalization}]


def _escaped(pattern: str) -> str:
    """Escape control characters in a pattern, in the backend's dialect."""
    return "".join(c if "!" <= c <= "~" else rf"\x{{{ord(c):X}}}" for c in pattern)
