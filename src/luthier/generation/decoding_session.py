"""Decoding state: a batch of token sequences with their key-value cache, and the logits of each next token.

Sequences of different length are padded on the left, so that all end in the same slot.

Shapes: B batch, S slots so far (padding and tokens), V vocab_size.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from luthier.model.overrides import must_be_called
from luthier.model.transformer import Transformer
from luthier.native.program import NativeStep, native_step

log = logging.getLogger(__name__)
PREFILL_CHUNK = 512  # tokens of a prefill chunk: bounds its memory
MIN_CHUNK = 64  # per text: smaller chunks would be slow


class DecodingSession:
    """A batch of token sequences and their key-value cache (without one, all tokens are recomputed each time).

    room: maximum number of tokens to append. vocab_size: the tokenizer's; the output matrix may have more rows, which
    are padding. native: use the compiled step where it supports this model.
    """

    def __init__(
        self,
        model: Transformer,
        texts: Sequence[Sequence[int]],
        room: int,
        *,
        vocab_size: int,
        use_cache: bool = True,
        native: bool = True,
    ) -> None:
        self.model, self.vocab_size = model, vocab_size
        self.device = model.device
        longest = max(len(text) for text in texts)
        self.padding = [longest - len(text) for text in texts]  # padding slots before each text
        # padding repeats the text's first token: the repetition penalty must not see other tokens
        rows = [[text[0]] * pad + list(text) for text, pad in zip(texts, self.padding, strict=True)]
        self.tokens = torch.tensor(rows, device=self.device)  # (B, S)
        self.starts = torch.tensor(self.padding, device=self.device)[:, None]  # (B, 1)
        self.cache = model.make_cache(longest + room) if use_cache else None
        self.step = native_step(model, longest + room) if use_cache and native else None
        self.watches_model = True  # before each pass: needed unless nothing can change the model in between

    @property
    def slots(self) -> int:
        """S: tokens of the longest text, including the padding of the others."""
        return self.tokens.shape[1]

    def logits(self) -> Tensor:
        """Feed the tokens that are not cached yet. Returns the logits of each text's next token, (B, V) float32."""
        return self.last_logits(1)[:, 0]

    def last_logits(self, count: int) -> Tensor:
        """Feed the tokens not cached yet. Returns the logits after each of the last `count`, (B, count, V) float32."""
        begin = 0 if self.cache is None else self.cache.length
        step, cache = self.compiled_step(), self.cache
        valid = None
        if any(self.padding):
            valid = torch.arange(self.slots, device=self.device) >= self.starts  # (B, S)
        if cache is not None and step is not None and step.fits(self.slots) and self.slots - count >= max(self.padding):
            for end in self.chunk_ends(begin):
                last = count if end == self.slots else 0
                logits = step.logits(self.tokens[:, begin:end], cache, self.padding, last)
                begin = end
        else:
            for end in self.chunk_ends(begin) if cache is not None else [self.slots]:
                seen = valid if valid is None else valid[:, :end]
                read, begin = self.tokens[:, begin:end], end
                if must_be_called(self.model, Transformer):
                    logits = self.model(read, cache, valid=seen)[:, -count:].float()
                    continue
                hidden = self.model.hidden(read, cache, valid=seen)  # (B, T, C)
                if end == self.slots:  # no logits for earlier tokens
                    logits = self.model.output(hidden[:, -count:]).float()
        return logits[:, :, : self.vocab_size]

    def compiled_step(self) -> NativeStep | None:
        """The compiled step; None once the model has changed since it was made (PyTorch then takes over)."""
        if self.step is not None and self.watches_model and not self.step.is_valid():
            self.step = None
            log.debug("PyTorch continues this text, not the compiled step: the model was changed")
        return self.step

    def chunk_ends(self, begin: int) -> Iterator[int]:
        """End slots of the prefill chunks from slot `begin` on. The chunk size is shared among the batch."""
        exact = self.model.max_exact_length
        if exact is not None and self.slots > exact:  # the logits would depend on the chunks
            yield self.slots
            return
        chunk = max(PREFILL_CHUNK // len(self.padding), MIN_CHUNK)
        while self.slots - begin > chunk:
            begin += chunk
            yield begin
        yield self.slots

    def append(self, tokens: Tensor) -> None:
        """Append one token to each text, (B,)."""
        self.tokens = torch.cat((self.tokens, tokens[:, None]), dim=1)

    def truncate(self, slots: int) -> None:
        """Keep the first `slots` slots; drop the rest from tokens and cache."""
        self.tokens = self.tokens[:, :slots]
        if self.cache is not None:
            self.cache.truncate(slots)

    def select(self, rows: list[int]) -> None:
        """Select rows in this order; a repeated index copies the row. Padding common to all of them is removed."""
        if rows == list(range(len(self.padding))):
            return
        index = torch.tensor(rows, device=self.device)
        self.padding = [self.padding[row] for row in rows]
        self.tokens, self.starts = self.tokens[index], self.starts[index]
        if self.cache is not None:
            self.cache.select(index)
        shared = min(self.padding)
        if shared:
            self.padding = [pad - shared for pad in self.padding]
            self.tokens, self.starts = self.tokens[:, shared:], self.starts - shared
            if self.cache is not None:
                self.cache.drop_first(shared)
