"""Guessing what comes next from what stands before: a text that repeats itself is read many tokens at a time.

Reading a few tokens at once takes hardly longer than reading one. So where the last tokens have come before, those that
followed them then are guessed to follow now, and read along with the last one. The logits after each say what the model
would have written there: guesses are kept as long as they are the same, so that the text is what it would have been
(look-up decoding, arXiv 2304.04487 and 2402.02057). No second model is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from luthier.generation.reader import Reader
from luthier.generation.row import Row
from luthier.generation.sampling import choose, uniforms
from luthier.generation.settings import Settings

LENGTHS = (4, 3, 2)  # of the last tokens that are looked up, the longest first
FIRST, MOST = 3, 16  # guesses at once: at first, and after others came true


def pays(reader: Reader, rows: Sequence[Row]) -> bool:
    """Whether guessing costs little: a single text, and the compiled step, to which a few tokens are hardly more than
    one, and which gives each the very logits that it gives it alone.
    """
    return len(rows) == 1 and reader.step is not None


class Guesser:
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


def sample_ahead(reader: Reader, row: Row, settings: Settings) -> Iterator[tuple[Row, str]]:
    """Fill one row as `generate.sample` does, guessing more tokens the more came true before."""
    numbers = uniforms(settings.seed, 1, row.room).to(reader.device)  # (1, room)
    guesser, guesses, most = Guesser(row.prompt), list[int](), FIRST
    while True:
        known = reader.slots - len(guesses)
        logits = reader.last_logits(1 + len(guesses))[0]  # (1 + guesses, V)
        for i, guess in enumerate([*guesses, None]):
            here = logits[i : i + 1]  # (1, V)
            tokens = choose(here, reader.tokens[:, : known + i], settings, numbers[:, len(row.result.ids)])
            token = int(tokens)
            if piece := row.add(token, float(here[0, token] - here.logsumexp(-1))):
                yield row, piece
            if row.ended:
                return
            guesser.add(token)
            if token != guess:
                break
        reader.truncate(known + i)
        if guesses:
            most = min(MOST, 2 * most) if i == len(guesses) else 1 + i
        guesses = guesser.guess(min(most, row.room - len(row.result.ids) - 1))
        reader.append(tokens)
        for guess in guesses:
            reader.append(torch.tensor([guess]))
