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

from luthier.generation.decoding_session import DecodingSession
from luthier.generation.sampling import penalize_repetition
from luthier.generation.sequence import GeneratedSequence
from luthier.generation.settings import GenerationSettings


@dataclass
class Beam:
    """A hypothesis: new tokens and their summed log-probability. parent: index of the beam that it extends."""

    ids: list[int]
    logprobs: list[float]
    score: float
    parent: int


class BeamSearch:
    """The beam search of one prompt."""

    def __init__(self, sequence: GeneratedSequence) -> None:
        self.sequence, self.settings = sequence, sequence.settings
        self.width = self.settings.beams * max(2, 1 + len(sequence.end_tokens))  # enough if every beam can end
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
            if not self.sequence.would_end(beam.ids):
                live.append(beam)
            elif place < beams:  # candidates below this rank only keep enough beams live
                self.ended.append(beam)
        self.live = live[:beams]
        self.ended = sorted(self.ended, key=self.rank, reverse=True)[:beams]
        if self.live and len(self.ended) == beams and self.rank(self.live[0]) <= self.rank(self.ended[-1]):
            self.live = []

    def finish(self) -> str:
        """Add the best hypothesis to the sequence and return its text."""
        best = self.ended[0]
        return "".join(
            self.sequence.add(token, logprob) for token, logprob in zip(best.ids, best.logprobs, strict=True)
        )


def beam_search(
    session: DecodingSession, sequences: Sequence[GeneratedSequence], settings: GenerationSettings
) -> Iterator[tuple[GeneratedSequence, str]]:
    """Fill sequences, one for each prompt of the session, with the best hypothesis. Yields each with its text."""
    searches = [BeamSearch(sequence) for sequence in sequences]
    width = min(max(search.width for search in searches), session.vocab_size)
    active = searches
    while active:
        scores = session.logits().log_softmax(-1)  # (N, V)
        if settings.repetition_penalty != 1:  # applied to log-probabilities, which are then no longer normalized
            scores = penalize_repetition(scores, session.tokens, settings.repetition_penalty)
        best = scores.topk(width)  # (N, W)
        logprobs, tokens = best.values.tolist(), best.indices.tolist()
        parents: list[int] = []
        first = 0  # index of the prompt's first beam among the session's sequences
        for search in active:
            last = first + len(search.live)
            search.advance(logprobs[first:last], tokens[first:last])
            parents += [first + beam.parent for beam in search.live]
            first = last
        active = [search for search in active if search.live]
        if active:
            session.select(parents)
            last_tokens = [beam.ids[-1] for search in active for beam in search.live]
            session.append(torch.tensor(last_tokens, device=session.device))
    for search in searches:
        yield search.sequence, search.finish()
