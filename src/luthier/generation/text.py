"""From tokens to text, as they come: whole characters only, and nothing of a string that ends the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from luthier.tokenizers.core.tokenizer import Tokenizer

LAST = 8  # tokens of the prompt that a decoder is shown: enough to be in the middle of a text


class StopFinder:
    """Passes text on until one of the strings `stop` is complete, wherever the pieces are cut.

    What may be the beginning of such a string is held back until more text decides.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self.stop = stop
        self.held = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """Add text. Returns what can be shown now."""
        self.held += piece
        found = [(place + len(stop), place) for stop in self.stop if (place := self.held.find(stop)) >= 0]
        if found:
            self.stopped = True
            _, ready = min(found)  # the first one to be complete, so that the cut of the pieces does not matter
            shown, self.held = self.held[:ready], ""
            return shown
        ready = len(self.held) - self.undecided()
        shown, self.held = self.held[:ready], self.held[ready:]
        return shown

    def undecided(self) -> int:
        """Characters at the end of what is held that begin one of the strings."""
        longest = max((len(stop) - 1 for stop in self.stop), default=0)
        sizes = range(min(longest, len(self.held)), 0, -1)
        return next((size for size in sizes if any(s.startswith(self.held[-size:]) for s in self.stop)), 0)

    def flush(self) -> str:
        """The end of the text: no more will come, so what was held back is plain text."""
        shown, self.held = self.held, ""
        return shown


class Writer:
    """The text that follows a prompt, from its tokens. Special tokens are no text."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str]) -> None:
        self.decoder = tokenizer.stream()
        self.special = frozenset(tokenizer.special_tokens.values())
        # some tokenizers drop the space that begins a text, and so must know that the prompt came before
        for token in prompt[-LAST:]:
            self.decode(token)
        self.decoder.flush()
        self.finder = StopFinder(stop)

    @property
    def stopped(self) -> bool:
        """Whether one of the strings that end the text has come."""
        return self.finder.stopped

    def push(self, token: int) -> str:
        """Add a token. Returns the text that can be shown now."""
        return self.finder.push(self.decode(token))

    def decode(self, token: int) -> str:
        """The characters that a token makes whole."""
        return "" if token in self.special else self.decoder.push(token)

    def flush(self) -> str:
        """The end of the text: what is left to be shown, without a character whose last bytes were never written."""
        return "" if self.stopped else self.finder.push(self.decoder.flush().rstrip("\ufffd")) + self.finder.flush()
