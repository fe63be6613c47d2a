"""The steps of a backend's normalizer or pre-tokenizer, as plain values."""

from __future__ import annotations

import json
from typing import Any

from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import PreTokenizer

from luthier.tokenizers.core.cleaning import CLEANING, Normalization, taken_off


def steps(part: Normalizer | PreTokenizer | None) -> list[dict[str, Any]]:
    """The steps of a component, without settings that do not affect ids; `cleaning`'s rules are one step."""
    form, rest = taken_off([] if part is None else _flat(json.loads(part.__getstate__())))
    return rest if form is None else [{"type": CLEANING, "form": form}, *rest]


def without_cleaning(part: Normalizer | None) -> list[dict[str, Any]]:
    """The steps of a normalizer without `cleaning`'s rules."""
    return [step for step in steps(part) if step["type"] != CLEANING]


def cleaning_of(part: Normalizer | None) -> Normalization | None:
    """The normalization form of a normalizer's cleaning; None if it has no cleaning."""
    return next((step["form"] for step in steps(part)[:1] if step["type"] == CLEANING), None)


def _flat(step: dict[str, Any]) -> list[dict[str, Any]]:
    match step:
        case {"type": "Sequence", "pretokenizers": inner} | {"type": "Sequence", "normalizers": inner}:
            return [each for part in inner for each in _flat(part)]
        case {"type": "ByteLevel"}:
            return [{key: value for key, value in step.items() if key != "trim_offsets"}]
        case {"type": "Split", "behavior": "Removed", "invert": True}:  # what matches stays: all, by these patterns
            return [step | {"behavior": "Isolated", "invert": False}]
    return [step]
