"""Speculative decoding: verify several drafted tokens in one forward pass (arXiv 2211.17192 and 2302.01318).

A forward pass over a few tokens takes hardly longer than over one, so drafted tokens are fed along with the last
token. The logits after each give the model's own token: drafts are accepted up to the first that differs, so the
text is the same as without drafting.

This is exact where a token's logits do not depend on how many tokens are fed with it: bit for bit with the compiled
step; within about 1e-6 in float32, which matters only for near ties. In bfloat16 without the compiled step, rounding
may change the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch

from luthier.generation.reader import Reader
from luthier.generation.row import Row
from luthier.generation.sampling import choose, uniforms
from luthier.generation.settings import Settings

FIRST, MOST = 3, 16  # drafted tokens per pass: the first, and the most after acceptances


class Guesser(Protocol):
    """Follows the text and drafts its continuation."""

    def add(self, token: int) -> None:
        """Append a token to the text."""

    def guess(self, most: int) -> list[int]:
        """Draft at most `most` next tokens; an empty list for no draft."""


class FirstThatKnows:
    """Tries several drafters in order."""

    def __init__(self, *guessers: Guesser) -> None:
        self.guessers = guessers

    def add(self, token: int) -> None:
        """Append a token to the text."""
        for guesser in self.guessers:
            guesser.add(token)

    def guess(self, most: int) -> list[int]:
        """Return the first non-empty draft."""
        return next((found for guesser in self.guessers if (found := guesser.guess(most))), [])


def sample_ahead(reader: Reader, row: Row, settings: Settings, guesser: Guesser) -> Iterator[tuple[Row, str]]:
    """Fill one row as `generate.sample` does, drafting more tokens the more were accepted before."""
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
