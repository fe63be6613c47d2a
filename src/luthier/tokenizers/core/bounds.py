"""Checks of untrusted tokenizer.json files: invalid regular expressions, and steps that make texts grow without bound.

The backend panics on the first, printing pages. Steps that replace a letter by two double a text each: forty of them
exhaust memory.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from typing import Any

from tokenizers import Regex
from tokenizers import Tokenizer as Backend
from tokenizers.normalizers import Normalizer, Precompiled
from tokenizers.normalizers import Sequence as NormalizerSequence

from luthier.errors import LuthierError

PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
MOST_AT_ONCE = 64  # factor by which one step may lengthen a match
MOST_IN_ALL = 256  # factor by which all steps together may lengthen a text in the worst case
MOST_OF_A_TEXT = 32  # factor by which they may lengthen an actual text, if the worst case exceeds MOST_IN_ALL
SOME = 4096  # characters by which a text may always grow
SHOWN = 60  # characters of a pattern in an error
FORMS = {"NFKC": 18, "NFKD": 18, "NFD": 4, "Lowercase": 3, "ByteLevel": 4}  # maximum growth factor by Unicode's rules


def check(state: dict[str, Any]) -> None:
    """Raise LuthierError for a tokenizer.json with an invalid regular expression or a step that lengthens texts too
    much.

    Raises TypeError or AttributeError for an object that is not a tokenizer.json.
    """
    for step in (step for part in PARTS for step in _steps(state.get(part))):
        pattern = step.get("pattern")
        if isinstance(pattern, dict) and isinstance(pattern.get("Regex"), str):
            _check_pattern(pattern["Regex"])
        if step.get("type") == "Precompiled":
            _check_charsmap(step.get("precompiled_charsmap"))
        if _growth(step) > MOST_AT_ONCE:
            raise LuthierError(f"a step ({step['type']}) makes texts up to {_growth(step):,.0f} times longer")
    if (times := _in_all(list(_steps(state.get("decoder"))))) > MOST_IN_ALL:
        raise LuthierError(f"its decoder makes texts up to {times:.3g} times longer")


class Growth:
    """Checks texts for a normalizer that may lengthen them without bound."""

    def __init__(self, backend: Backend) -> None:
        normalizer = backend.normalizer
        steps = [] if normalizer is None else list(_steps(json.loads(normalizer.__getstate__())))
        self._steps: Sequence[Normalizer] = ()
        if _in_all(steps) > MOST_IN_ALL:
            self._steps = [_made(step) for step in steps]

    def check(self, text: str) -> None:
        """Raise LuthierError for a text that would become too long. Free for nearly all tokenizers."""
        size = len(text)
        for step in self._steps:
            text = step.normalize_str(text)
            if len(text) > MOST_OF_A_TEXT * size + SOME:
                raise LuthierError(
                    f"the tokenizer's normalizer makes a text of {size:,} characters over {MOST_OF_A_TEXT} times "
                    "longer: its tokenizer.json is broken"
                )


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """The steps of a component, flattened out of nested sequences."""
    if part is None:
        return
    inner = [part[key] for key in ("normalizers", "pretokenizers", "processors", "decoders") if key in part]
    if inner:
        for each in inner[0]:
            yield from _steps(each)
    else:
        yield part


def _made(step: dict[str, Any]) -> Normalizer:
    normalizer = NormalizerSequence([])
    normalizer.__setstate__(json.dumps({"type": "Sequence", "normalizers": [step]}).encode())
    return normalizer


def _check_pattern(pattern: str) -> None:
    try:
        Regex(pattern)
    except Exception as error:
        shown = pattern if len(pattern) <= SHOWN else f"{pattern[:SHOWN]}..."
        reason = str(error).removeprefix("Oniguruma error: ")
        raise LuthierError(f"{shown!r} is not a regular expression: {reason}") from None


def _check_charsmap(content: Any) -> None:
    try:
        Precompiled(base64.b64decode(content, validate=True))
    except Exception:
        raise LuthierError("its normalizer's precompiled_charsmap is invalid") from None


def _in_all(steps: Sequence[dict[str, Any]]) -> float:
    """Maximum factor by which a text may grow."""
    times = 1.0
    for step in steps:
        times *= _growth(step)
    return times


def _growth(step: dict[str, Any]) -> float:
    """Maximum factor by which a step may lengthen a text."""
    match step:
        case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)}:
            return max(1.0, len(new) / max(1, len(old)))
        case {"type": "Replace", "pattern": {"Regex": str(old)}, "content": str(new)}:
            # a class of characters matches one; what else may match is not known, so it may be the place before one
            return max(1, len(new)) if old.startswith("[") and old.find("]") == len(old) - 1 else 1 + len(new)
        case {"type": "Prepend", "prepend": str(begin)}:
            return 1.0 if len(begin) <= MOST_AT_ONCE else len(begin)
        case {"type": str(name)}:
            return FORMS.get(name, 1)
    return 1.0
