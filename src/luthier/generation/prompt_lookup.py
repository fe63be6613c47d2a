"""Prompt-lookup (n-gram) drafting, for text that repeats itself (arXiv 2304.04487 and 2402.02057).

Where the last tokens occurred before, the tokens that followed them are drafted. No draft model is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

from luthier.generation.decoding_session import DecodingSession
from luthier.generation.sequence import GeneratedSequence

LENGTHS = (4, 3, 2)  # n-gram lengths to look up, the longest first


def is_worthwhile(session: DecodingSession, sequences: Sequence[GeneratedSequence]) -> bool:
    """Whether drafting is nearly free: for a single sequence with the compiled step, for which a few tokens cost hardly
    more than one, and whose logits do not depend on how many tokens are fed at once.
    """
    return len(sequences) == 1 and session.compiled_step() is not None


class PromptLookup:
    """N-gram drafter: maps each n-gram of the sequence to the position after its latest occurrence."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens: list[int] = []
        self.followed: dict[tuple[int, ...], int] = {}  # n-gram -> the position after it
        for token in tokens:
            self.add(token)

    def add(self, token: int) -> None:
        """Append a token to the sequence."""
        place = len(self.tokens)
        for length in LENGTHS:  # indexed only once a token follows, so that the end of the text does not match itself
            if length <= place:
                self.followed[tuple(self.tokens[-length:])] = place
        self.tokens.append(token)

    def draft(self, most: int) -> list[int]:
        """Draft at most `most` next tokens; none where no n-gram matches."""
        for length in LENGTHS:
            place = self.followed.get(tuple(self.tokens[-length:]))
            if place is not None:
                return self.tokens[place : place + most]
        return []
