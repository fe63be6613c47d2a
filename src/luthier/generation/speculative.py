"""Speculative decoding: verify several drafted tokens in one forward pass (arXiv 2211.17192 and 2302.01318).

A forward pass over a few tokens takes hardly longer than over one, so drafted tokens are fed along with the last
token. The logits after each give the model's own token: drafts are accepted up to the first that differs, so the text
is the same as without drafting.

This is exact if a token's logits do not depend on how many tokens are fed with it: bitwise with the compiled step;
within about 1e-6 in float32, which matters only for near ties. In bfloat16 without the compiled step, rounding may
change the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch

from luthier.generation.decoding_session import DecodingSession
from luthier.generation.sampling import choose, uniforms
from luthier.generation.sequence import GeneratedSequence
from luthier.generation.settings import GenerationSettings

INITIAL_DRAFT, MAX_DRAFT = 3, 16  # drafted tokens per pass: of the first pass, and at most


class Drafter(Protocol):
    """Predicts the next tokens of a sequence."""

    def add(self, token: int) -> None:
        """Append a token to the sequence."""

    def draft(self, most: int) -> list[int]:
        """Draft at most `most` next tokens; an empty list for no draft."""


class DrafterChain:
    """Tries several drafters in order."""

    def __init__(self, *drafters: Drafter) -> None:
        self.drafters = drafters

    def add(self, token: int) -> None:
        """Append a token to the sequence."""
        for drafter in self.drafters:
            drafter.add(token)

    def draft(self, most: int) -> list[int]:
        """Return the first non-empty draft."""
        return next((found for drafter in self.drafters if (found := drafter.draft(most))), [])


def sample_speculatively(
    session: DecodingSession, sequence: GeneratedSequence, settings: GenerationSettings, drafter: Drafter
) -> Iterator[tuple[GeneratedSequence, str]]:
    """Generate one sequence like `generate.sample`, with drafts that are longer the more tokens were accepted."""
    uniform = uniforms(settings.seed, 1, sequence.room).to(session.device)  # (1, room)
    result, draft, most = sequence.result, list[int](), INITIAL_DRAFT
    while True:
        known = session.slots - len(draft)
        logits = session.last_logits(1 + len(draft))[0]  # (1 + draft, V)
        for i, drafted in enumerate([*draft, None]):
            here = logits[i : i + 1]  # (1, V)
            tokens = choose(here, session.tokens[:, : known + i], settings, uniform[:, len(result.ids)])
            token = int(tokens)
            result.accepted += token == drafted
            if piece := sequence.add(token, float(here[0, token] - here.logsumexp(-1))):
                yield sequence, piece
            if sequence.ended:
                return
            drafter.add(token)
            if token != drafted:
                break
        session.truncate(known + i)
        if draft:
            most = min(MAX_DRAFT, 2 * most) if i == len(draft) else 1 + i
        draft = drafter.draft(min(most, sequence.room - len(result.ids) - 1))
        result.drafted += len(draft)
        session.append(tokens)
        for drafted in draft:
            session.append(torch.tensor([drafted], device=session.device))
