"""Prevent names of special and byte tokens ("</s>", "<0x0A>") in plain text from being encoded as those tokens.

A backend can be set to ignore special tokens, but some models then match their names as ordinary pieces. A split inside
such a name, between two characters that are adjacent in no ordinary piece, prevents that and changes nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

from luthier.tokenizers.core.pieces import BYTE

NEVER = -1e6  # a log probability below that of any segmentation into characters


class Cuts(NamedTuple):
    """Where names are split: a pattern of the positions ("" for none), and the names that have no such position."""

    pattern: str
    uncut: list[str]


def cuts(names: Iterable[str], pieces: Iterable[str]) -> Cuts:
    """Positions inside the names that no ordinary piece spans."""
    together = {pair for piece in pieces for pair in pairwise(piece)}
    places = {name: next((pair for pair in pairwise(name) if pair not in together), None) for name in names}
    pairs = sorted({pair for pair in places.values() if pair})
    pattern = "|".join(f"(?<={literal(left)})(?={literal(right)})" for left, right in pairs)
    return Cuts(pattern, sorted(name for name, pair in places.items() if pair is None))


def literal(text: str) -> str:
    """A pattern that matches the text literally, in the backend's dialect."""
    return "".join(rf"\x{{{ord(character):X}}}" for character in text)


def harden(content: str) -> str:
    """A tokenizer.json in which a unigram model does not match special tokens in plain text; unchanged for others.

    Raises ValueError, KeyError or TypeError for content that is not a tokenizer.json.
    """
    return hardened(json.loads(content), content)


def hardened(state: dict[str, Any], content: str) -> str:
    """`harden` for parsed content. state: the parsed JSON."""
    model = state["model"]
    if model.get("type") != "Unigram":
        return content
    special = {token["content"] for token in state.get("added_tokens") or [] if token["special"]}
    names = [text for text, _ in model["vocab"] if text in special or (model["byte_fallback"] and BYTE.fullmatch(text))]
    found = cuts(names, {text for text, _ in model["vocab"]}.difference(names))
    model["vocab"] = [(text, NEVER if text in found.uncut else score) for text, score in model["vocab"]]
    split = {"type": "Split", "pattern": {"Regex": found.pattern}, "behavior": "Isolated", "invert": False}
    before = state.get("pre_tokenizer")
    steps = before["pretokenizers"] if before and before["type"] == "Sequence" else [before] if before else []
    if found.pattern and split not in steps:
        state["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*steps, split]}
    return json.dumps(state, ensure_ascii=False)
