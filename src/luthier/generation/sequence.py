"""One sequence being generated after a prompt, and its result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from luthier.errors import LuthierError
from luthier.generation.settings import GenerationSettings
from luthier.generation.stream_decoder import StreamDecoder

if TYPE_CHECKING:
    from luthier.tokenizers.core.tokenizer import Tokenizer

FinishReason = Literal["end", "stop", "length", "context"]


@dataclass
class Result:
    """A generated text.

    ids: the new tokens, including the end token or those of the stop string, if any. text: without them.
    finish_reason: "end" an end token, "stop" a stop string, "length" max_new_tokens reached, "context" the model's
    context is full; None while generating. logprobs: natural logarithm of each token's probability before temperature
    and filters (and, except in beam search, before the penalty). drafted: number of drafted tokens (see
    speculative.py); accepted: how many of these were accepted.
    """

    ids: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: FinishReason | None = None
    logprobs: list[float] = field(default_factory=list)
    drafted: int = field(default=0, compare=False)
    accepted: int = field(default=0, compare=False)


class GeneratedSequence:
    """A prompt (token ids) and the tokens generated after it, until an end token, a stop string or the length limit.

    number: index of this sample of its prompt, from 0.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        settings: GenerationSettings,
        context_length: int,
        number: int = 0,
    ) -> None:
        if not prompt:
            raise LuthierError("the prompt has no tokens: give at least one")
        if len(prompt) >= context_length:
            raise LuthierError(
                f"the prompt has {len(prompt)} tokens and the model's context holds {context_length}, "
                f"new tokens included: shorten the prompt to at most {context_length - 1}"
            )
        self.tokenizer, self.prompt, self.settings = tokenizer, prompt, settings
        self.context_length, self.number = context_length, number
        # a stop string may be a special token, which never appears in the decoded text
        stops = {tokenizer.special_tokens[string] for string in settings.stop if string in tokenizer.special_tokens}
        self.end_tokens = stops.union(tokenizer.eos_ids)
        self.room = min(settings.max_new_tokens, context_length - len(prompt))  # tokens
        self.decoder = self.new_decoder()
        self.result = Result()

    def new_decoder(self) -> StreamDecoder:
        """A new decoder of the tokens after the prompt."""
        return StreamDecoder(self.tokenizer, self.prompt, self.settings.stop)

    @property
    def ended(self) -> bool:
        """Whether this sequence is finished."""
        return self.result.finish_reason is not None

    def add(self, token: int, logprob: float) -> str:
        """Add a token. Returns the text that is now complete."""
        result = self.result
        if math.isnan(logprob):
            raise LuthierError(
                f"the model's output after {len(self.prompt) + len(result.ids)} tokens is NaN: "
                "its weights are damaged or overflow in this dtype (float32 is the safest)"
            )
        result.ids.append(token)
        result.logprobs.append(logprob)
        ends = token in self.end_tokens
        piece = "" if ends else self.decoder.push(token)
        if token in self.tokenizer.eos_ids:
            result.finish_reason = "end"
        elif ends or self.decoder.stopped:
            result.finish_reason = "stop"
        elif len(result.ids) == self.room:
            result.finish_reason = "length" if self.room == self.settings.max_new_tokens else "context"
        if self.ended:
            piece += self.decoder.flush()
        result.text += piece
        return piece

    def would_end(self, ids: Sequence[int]) -> bool:
        """Whether these tokens, added to an empty sequence, would finish it with the last one."""
        if ids[-1] in self.end_tokens or len(ids) == self.room:
            return True
        if not self.settings.stop:
            return False
        decoder = self.new_decoder()
        for token in ids:
            decoder.push(token)
        return decoder.stopped
