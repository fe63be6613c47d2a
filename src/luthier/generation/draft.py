"""Draft tokens with a second, smaller model (speculative decoding, arXiv 2211.17192 and 2302.01318).

The draft model samples with the same settings and the same uniform number in [0, 1) with which the target model will
sample that position: where the two distributions are similar, both choose the same token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from luthier.errors import LuthierError
from luthier.generation.decoding_session import DecodingSession
from luthier.generation.sampling import choose, uniforms
from luthier.generation.sequence import GeneratedSequence
from luthier.generation.settings import GenerationSettings
from luthier.model.transformer import Transformer

if TYPE_CHECKING:
    from luthier.tokenizers.core.tokenizer import Tokenizer


@dataclass(frozen=True)
class Draft:
    """A draft model. context_length: the longest sequence, in tokens, that it drafts for."""

    model: Transformer
    context_length: int


def check_vocabulary(draft: Tokenizer, own: Tokenizer, name: str = "the draft") -> None:
    """Raise a LuthierError unless each id is the same token for the draft model as for the target model."""
    draft_tokens, target_tokens = (
        {number: token for token, number in tokenizer.backend.get_vocab(with_added_tokens=True).items()}
        for tokenizer in (draft, own)
    )
    if draft_tokens == target_tokens:
        return
    first = min(
        number
        for number in draft_tokens.keys() | target_tokens.keys()
        if draft_tokens.get(number) != target_tokens.get(number)
    )
    raise LuthierError(
        f"{name} has another vocabulary than the model: its token {first} is {draft_tokens.get(first)!r}, the model's "
        f"{target_tokens.get(first)!r}. Take a draft trained with its tokenizer (luthier train --tokenizer MODEL)"
    )


class ModelDrafter:
    """Drafter that runs a draft model on a sequence."""

    def __init__(self, draft: Draft, sequence: GeneratedSequence, settings: GenerationSettings) -> None:
        self.settings, self.context_length = settings, draft.context_length
        self.start = len(sequence.prompt)
        self.session = DecodingSession(
            draft.model,
            [sequence.prompt],
            sequence.room,
            vocab_size=sequence.tokenizer.vocab_size,
            use_cache=settings.use_cache,
        )
        self.uniform = uniforms(settings.seed, 1, sequence.room).to(self.session.device)  # (1, room)
        self.known = self.start  # slots of the session that are accepted tokens; the rest are drafted

    def add(self, token: int) -> None:
        """Append a token; drafted tokens are discarded unless the first is this one."""
        if self.known == self.session.slots or int(self.session.tokens[0, self.known]) != token:
            self.session.truncate(self.known)
            self.session.append(torch.tensor([token], device=self.session.device))
        self.known += 1

    def draft(self, most: int) -> list[int]:
        """Draft at most `most` next tokens; none where the draft model's context is full."""
        draft: list[int] = []
        while len(draft) < most and self.session.slots <= self.context_length:
            number = self.uniform[:, self.session.slots - self.start]
            tokens = choose(self.session.logits(), self.session.tokens, self.settings, number)
            self.session.append(tokens)
            draft.append(int(tokens))
        return draft
