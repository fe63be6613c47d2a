"""Writing a text with guesses: several tokens are read at a time, as far as they were guessed.

Reading a few tokens at once takes hardly longer than reading one. So guesses of the next tokens are read along with the
last one. The logits after each say what the model writes there: guesses are kept as long as they are the same, so that
the text is what it would have been without any (arXiv 2211.17192 and 2302.01318).

That holds to the token where a token's logits are the same alone and among others: with the compiled step to the last
bit; in float32 to some 1e-6, which only a near tie would show. In bfloat16 without that step, rounding may part texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch

from luthier.generation.reader import Reader
from luthier.generation.row import Row
from luthier.generation.sampling import choose, uniforms
from luthier.generation.settings import Settings

FIRST, MOST = 3, 16  # guesses at once: at first, and after others came true


class Guesser(Protocol):
    """Follows a text, and guesses how it goes on."""

    def add(self, token: int) -> None:
        """The text goes on."""

    def guess(self, most: int) -> list[int]:
        """The next tokens, at most so many; none where it does not know."""


class FirstThatKnows:
    """Asks several guessers, one after the other."""

    def __init__(self, *guessers: Guesser) -> None:
        self.guessers = guessers

    def add(self, token: int) -> None:
        """The text goes on."""
        for guesser in self.guessers:
            guesser.add(token)

    def guess(self, most: int) -> list[int]:
        """The next tokens, by the first that knows any."""
        return next((found for guesser in self.guessers if (found := guesser.guess(most))), [])


def sample_ahead(reader: Reader, row: Row, settings: Settings, guesser: Guesser) -> Iterator[tuple[Row, str]]:
    """Fill one row as `generate.sample` does, guessing more tokens the more came true before."""
    numbers = uniforms(settings.seed, 1, row.room).to(reader.device)  # (1, room)
    result, guesses, most = row.result, list[int](), FIRST
    while True:
        known = reader.slots - len(guesses)
        logits = reader.last_logits(1 + len(guesses))[0]  # (1 + guesses, V)
        for i, guess in enumerate([*guesses, None]):
            here = logits[i : i + 1]  # (1, V)
            tokens = choose(here, reader.tokens[:, : known + i], settings, numbers[:, len(result.ids)])
            token = int(tokens)
            result.came_true += token == guess
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
        guesses = guesser.guess(min(most, row.room - len(result.ids) - 1))
        result.guesses += len(guesses)
        reader.append(tokens)
        for guess in guesses:
            reader.append(torch.tensor([guess], device=reader.device))
