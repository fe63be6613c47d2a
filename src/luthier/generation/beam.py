"""Beam search: approximates the most probable text rather than taking the most probable next token.

For each prompt the `beams` most probable hypotheses are kept. Each step extends them with their most probable next
tokens. A finished hypothesis is set aside with its score: the sum of its log-probabilities divided by its length to
the power length_penalty. The search ends when `beams` hypotheses are finished and no live one, at its present length,
scores above the worst of them. The repetition penalty is applied to log-probabilities. (Rules and defaults follow
transformers' `generate`, so that the texts are the same.)

Shapes: N live hypotheses of all prompts, V vocab_size, W candidates of each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter

import torch

from luthier.generation.reader import Reader
from luthier.generation.row import Row
from luthier.generation.sampling import penalize_repetition
from luthier.generation.settings import Settings


@dataclass
class Beam:
    """A hypothesis: new tokens and their summed log-probability. parent: index of the beam that it extends."""

    ids: list[int]
    logprobs: list[float]
    score: float
    parent: int


class Search:
    """The beam search of one prompt."""

    def __init__(self, row: Row) -> None:
        self.row, self.settings = row, row.settings
        self.width = self.settings.beams * max(2, 1 + len(row.end_tokens))  # enough if every beam can end
        self.live = [Beam([], [], 0.0, 0)]
        self.ended: list[Beam] = []  # the best `beams`, best first

    def rank(self, beam: Beam) -> float:
        """Length-penalized score, by which hypotheses of different lengths are compared."""
        return beam.score / math.pow(len(beam.ids), self.settings.length_penalty)

    def advance(self, logprobs: Sequence[Sequence[float]], tokens: Sequence[Sequence[int]]) -> None:
        """Advance one step, given the most probable next tokens of each live beam, (live, W) each, best first."""
        beams = self.settings.beams
        candidates = [
            (beam.score + logprob, parent, logprob, token)
            for parent, beam in enumerate(self.live)
            for logprob, token in zip(logprobs[parent], tokens[parent], strict=True)
        ]
        candidates.sort(key=itemgetter(0), reverse=True)
        live: list[Beam] = []
        for place, (score, parent, logprob, token) in enumerate(candidates[: self.width]):
            before = self.live[parent]
            beam = Beam([*before.ids, token], [*before.logprobs, logprob], score, parent)
            if not self.row.would_end(beam.ids):
                live.append(beam)
            elif place < beams:  # candidates below this rank only keep enough beams live
                self.ended.append(beam)
        self.live = live[:beams]
        self.ended = sorted(self.ended, key=self.rank, reverse=True)[:beams]
        if self.live and len(self.ended) == beams and self.rank(self.live[0]) <= self.rank(self.ended[-1]):
            self.live = []

    def finish(self) -> str:
        """Write the best hypothesis into the row and return its text."""
        best = self.ended[0]
        return "".join(self.row.add(token, logprob) for token, logprob in zip(best.ids, best.logprobs, strict=True))


def beam_search(reader: Reader, rows: Sequence[Row], settings: Settings) -> Iterator[tuple[Row, str]]:
    """Fill rows, one for each text of the reader, with the best text found. Yields each row with its text."""
    searches = [Search(row) for row in rows]
    width = min(max(search.width for search in searches), reader.vocab_size)
    going = searches
    while going:
        scores = reader.logits().log_softmax(-1)  # (N, V)
        if settings.repetition_penalty != 1:  # applied to log-probabilities, which are then no longer normalized
            scores = penalize_repetition(scores, reader.tokens, settings.repetition_penalty)
        best = scores.topk(width)  # (N, W)
        logprobs, tokens = best.values.tolist(), best.indices.tolist()
        parents: list[int] = []
        first = 0  # index of the prompt's first beam among the reader's rows
        for search in going:
            last = first + len(search.live)
            search.advance(logprobs[first:last], tokens[first:last])
            parents += [first + beam.parent for beam in search.live]
            first = last
        going = [search for search in going if search.live]
        if going:
            reader.select(parents)
            last_tokens = [beam.ids[-1] for search in going for beam in search.live]
            reader.append(torch.tensor(last_tokens, device=reader.device))
    for search in searches:
        yield search.row, search.finish()
