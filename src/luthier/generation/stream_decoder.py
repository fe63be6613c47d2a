"""Streaming detokenization: complete characters only, and no part of a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from luthier.tokenizers.core.tokenizer import Tokenizer

PROMPT_TOKENS = (
    8  # prompt tokens fed to the decoder, so that it does not treat the first new token as the start of a text
)


class StopStringFilter:
    """Passes streamed text through until one of the strings `stop` is complete, however the text is split into pieces.

    Text that may be the beginning of a stop string is held back until that is decided.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self.stop = stop
        self.held = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """Add text. Returns the text that is now decided."""
        self.held += piece
        found = [(place + len(stop), place) for stop in self.stop if (place := self.held.find(stop)) >= 0]
        if found:
            self.stopped = True
            _, ready = min(found)  # the first to be complete, so that the result does not depend on the pieces
            shown, self.held = self.held[:ready], ""
            return shown
        ready = len(self.held) - self.undecided()
        shown, self.held = self.held[:ready], self.held[ready:]
        return shown

    def undecided(self) -> int:
        """Number of characters at the end of the held text that are a prefix of a stop string."""
        longest = max((len(stop) - 1 for stop in self.stop), default=0)
        sizes = range(min(longest, len(self.held)), 0, -1)
        return next((size for size in sizes if any(s.startswith(self.held[-size:]) for s in self.stop)), 0)

    def flush(self) -> str:
        """End the text. Returns what was held back."""
        shown, self.held = self.held, ""
        return shown


class StreamDecoder:
    """Incremental decoder of the tokens after a prompt. Special tokens have no text."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str]) -> None:
        self.decoder = tokenizer.stream()
        self.special = frozenset(tokenizer.special_tokens.values())
        # some tokenizers drop the space at the start of a text, so the decoder must have seen the prompt
        for token in prompt[-PROMPT_TOKENS:]:
            self.decode(token)
        self.decoder.flush()
        self.filter = StopStringFilter(stop)

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found."""
        return self.filter.stopped

    def push(self, token: int) -> str:
        """Add a token. Returns the text that is now complete."""
        return self.filter.push(self.decode(token))

    def decode(self, token: int) -> str:
        """Characters completed by this token."""
        return "" if token in self.special else self.decoder.push(token)

    def flush(self) -> str:
        """End the text. Returns the rest, without an incomplete last character."""
        return "" if self.stopped else self.filter.push(self.decoder.flush().rstrip("\ufffd")) + self.filter.flush()
