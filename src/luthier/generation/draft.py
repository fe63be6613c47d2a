"""Draft tokens with a second, smaller model (speculative decoding, arXiv 2211.17192 and 2302.01318).

The draft model samples with the same settings and the same uniform number in [0, 1) with which the target model will
sample that position: where the two distributions are similar, both choose the same token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from luthier.errors import LuthierError
from luthier.generation.reader import Reader
from luthier.generation.row import Row
from luthier.generation.sampling import choose, uniforms
from luthier.generation.settings import Settings
from luthier.model.transformer import Transformer

if TYPE_CHECKING:
    from luthier.tokenizers.core.tokenizer import Tokenizer


@dataclass(frozen=True)
class Draft:
    """A draft model. context_length: the longest text, in tokens, that it drafts for."""

    model: Transformer
    context_length: int


def check_vocabulary(draft: Tokenizer, own: Tokenizer, name: str = "the draft") -> None:
    """Raise a LuthierError unless each id is the same token for the draft model as for the target model."""
    theirs, ours = (
        {number: token for token, number in tokenizer.backend.get_vocab(with_added_tokens=True).items()}
        for tokenizer in (draft, own)
    )
    if theirs == ours:
        return
    first = min(number for number in theirs.keys() | ours.keys() if theirs.get(number) != ours.get(number))
    raise LuthierError(
        f"{name} has another vocabulary than the model: its token {first} is {theirs.get(first)!r}, the model's "
        f"{ours.get(first)!r}. Take a draft trained with its tokenizer (luthier train --tokenizer MODEL)"
    )


class DraftGuesser:
    """Drafter that runs a draft model on the text of a row."""

    def __init__(self, draft: Draft, row: Row, settings: Settings) -> None:
        self.settings, self.context_length = settings, draft.context_length
        self.start = len(row.prompt)
        self.reader = Reader(
            draft.model, [row.prompt], row.room, vocab_size=row.tokenizer.vocab_size, use_cache=settings.use_cache
        )
        self.numbers = uniforms(settings.seed, 1, row.room).to(self.reader.device)  # (1, room)
        self.known = self.start  # slots of the reader that are accepted text; the rest is drafted

    def add(self, token: int) -> None:
        """Append a token; drafted tokens are discarded unless the first is this one."""
        if self.known == self.reader.slots or int(self.reader.tokens[0, self.known]) != token:
            self.reader.truncate(self.known)
            self.reader.append(torch.tensor([token], device=self.reader.device))
        self.known += 1

    def guess(self, most: int) -> list[int]:
        """Draft at most `most` next tokens; none where the draft model's context is full."""
        guesses: list[int] = []
        while len(guesses) < most and self.reader.slots <= self.context_length:
            number = self.numbers[:, self.reader.slots - self.start]
            tokens = choose(self.reader.logits(), self.reader.tokens, self.settings, number)
            self.reader.append(tokens)
            guesses.append(int(tokens))
        return guesses
