"""What a backend's normalizer or pre-tokenizer does, one step after another, as plain values."""

from __future__ import annotations

import json
from typing import Any

from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import PreTokenizer


def steps(part: Normalizer | PreTokenizer | None) -> list[dict[str, Any]]:
    """The steps of a part, without the settings that change no ids."""
    return [] if part is None else _flat(json.loads(part.__getstate__()))


def _flat(step: dict[str, Any]) -> list[dict[str, Any]]:
    match step:
        case {"type": "Sequence", "pretokenizers": inner} | {"type": "Sequence", "normalizers": inner}:
            return [each for part in inner for each in _flat(part)]
        case {"type": "ByteLevel"}:
            return [{key: value for key, value in step.items() if key != "trim_offsets"}]
        case {"type": "Split", "behavior": "Removed", "invert": True}:  # what matches stays: all, by these patterns
            return [step | {"behavior": "Isolated", "invert": False}]
    return [step]
