"""Reconstruct BPE merges from ranks, which is all that SentencePiece's and tiktoken's files have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import TypeVar

from luthier.errors import LuthierError

MOST_WORK = 100_000_000  # Llama 4's 200,000 pieces take an eighth of it; a hostile file could ask for hours
Text = TypeVar("Text", str, bytes)


def merges_of(ranks: Mapping[Text, int], pieces: Iterable[Text]) -> list[tuple[Text, Text]]:
    """The pair that is merged into each piece, in rank order.

    Both formats merge the adjacent pair whose piece has the lowest rank, the leftmost first. Applied to a piece alone,
    the last merge is its pair; no other pair can give it within a longer text, since the merges between the piece's
    ends are the same there. A piece that is not reached has no merge.
    """
    in_order = sorted(pieces, key=ranks.__getitem__)
    if sum(len(piece) ** 2 for piece in in_order) > MOST_WORK:
        raise LuthierError("the tokenizer's pieces are too long")
    made = (last_pair(piece, ranks) for piece in in_order)
    return [pair for pair in made if pair is not None]


def last_pair(piece: Text, ranks: Mapping[Text, int]) -> tuple[Text, Text] | None:
    """The pair whose merge gives the piece; None if merging does not lead to it."""
    parts = [piece[i : i + 1] for i in range(len(piece))]
    none = len(ranks)
    while len(parts) > 2:
        joined = [ranks.get(left + right, none) for left, right in pairwise(parts)]
        lowest = min(joined)
        if lowest == none:
            return None
        place = joined.index(lowest)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return (parts[0], parts[1]) if len(parts) == 2 else None
