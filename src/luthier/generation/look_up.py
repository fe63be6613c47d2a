"""Guessing what comes next from what stands before, in a text that repeats itself.

Where the last tokens have come before, those that followed them then are guessed to follow now (look-up decoding,
arXiv 2304.04487 and 2402.02057). No second model is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

from luthier.generation.reader import Reader
from luthier.generation.row import Row

LENGTHS = (4, 3, 2)  # of the last tokens that are looked up, the longest first


def pays(reader: Reader, rows: Sequence[Row]) -> bool:
    """Whether guessing costs little: a single text, and the compiled step, to which a few tokens are hardly more than
    one, and which gives each the very logits that it gives it alone.
    """
    return len(rows) == 1 and reader.compiled_step() is not None


class LookUp:
    """Remembers what followed every few tokens of a text, where they came last."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens: list[int] = []
        self.followed: dict[tuple[int, ...], int] = {}  # some tokens -> the place after them
        for token in tokens:
            self.add(token)

    def add(self, token: int) -> None:
        """The text goes on."""
        place = len(self.tokens)
        for length in LENGTHS:  # noted once something follows, so that the end of the text does not find itself
            if length <= place:
                self.followed[tuple(self.tokens[-length:])] = place
        self.tokens.append(token)

    def guess(self, most: int) -> list[int]:
        """The next tokens, at most so many; none where the text is new."""
        for length in LENGTHS:
            place = self.followed.get(tuple(self.tokens[-length:]))
            if place is not None:
                return self.tokens[place : place + most]
        return []
