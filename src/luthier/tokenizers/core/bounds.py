"""Bounds on what anybody's tokenizer.json asks for: regular expressions that are none, texts that grow without end.

The backend panics over the first, and prints pages. A few steps that replace a letter by two of it double a text each:
forty of them take all memory.
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
MOST_AT_ONCE = 64  # times as long as a match that a step may make it
MOST_IN_ALL = 256  # times as long that all steps together may make a text, if each finds what the ones before it made
MOST_OF_A_TEXT = 32  # times as long that they may make a given text, where they might make it longer than MOST_IN_ALL
SOME = 4096  # characters that a text may always grow by
SHOWN = 60  # characters of a pattern in an error
FORMS = {"NFKC": 18, "NFKD": 18, "NFD": 4, "Lowercase": 3, "ByteLevel": 4}  # times, at most, by Unicode's rules


def check(state: dict[str, Any]) -> None:
    """Raise LuthierError for a tokenizer.json with a broken regular expression, or a step that makes texts far longer.

    Raises TypeError or AttributeError for what is no tokenizer.json.
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
    """Watches what a normalizer makes of texts, if it is one that may make them without end."""

    def __init__(self, backend: Backend) -> None:
        normalizer = backend.normalizer
        steps = [] if normalizer is None else list(_steps(json.loads(normalizer.__getstate__())))
        self._steps: Sequence[Normalizer] = ()
        if _in_all(steps) > MOST_IN_ALL:
            self._steps = [_made(step) for step in steps]

    def check(self, text: str) -> None:
        """Raise LuthierError for a text that would become far longer. Takes no time for nearly all tokenizers."""
        size = len(text)
        for step in self._steps:
            text = step.normalize_str(text)
            if len(text) > MOST_OF_A_TEXT * size + SOME:
                raise LuthierError(
                    f"the tokenizer's normalizer makes a text of {size:,} characters over {MOST_OF_A_TEXT} times "
                    "longer: its tokenizer.json is broken"
                )


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """The steps of a part, one after another, whatever sequences they lie in."""
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
        raise LuthierError(f"{shown!r} is no regular expression: {reason}") from None


def _check_charsmap(content: Any) -> None:
    try:
        Precompiled(base64.b64decode(content, validate=True))
    except Exception:
        raise LuthierError("its normalizer's precompiled_charsmap cannot be understood") from None


def _in_all(steps: Sequence[dict[str, Any]]) -> float:
    """How many times longer a text may become, at most."""
    times = 1.0
    for step in steps:
        times *= _growth(step)
    return times


def _growth(step: dict[str, Any]) -> float:
    """How many times longer a step may make a text, at most."""
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
