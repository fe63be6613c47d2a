"""Split a long document into chunks that can be encoded in parallel without changing a single id.

Tokenization depends on context, so a text cannot be cut anywhere: "new|line" gives other ids than "newline", and some
tokenizers prepend a space to their input. A cut is tried only at the end of a line, between words or after a Chinese
full stop, and kept only if encoding both sides separately gives the same ids as encoding across it. A document without
such a position is encoded in one piece.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from luthier.errors import LuthierError

CHUNK = 1 << 16  # characters: many per batch, to use every core; each long enough that checking its cut costs little
WINDOW = 500  # characters on each side of a cut that are encoded to check it
TRIES = 8  # positions tried before the chunk is doubled

PLACES = (
    re.compile(r"(?<=\S\n)(?=\w)"),  # a line directly after a line: all common tokenizers split there
    re.compile(r"(?<=\w)(?= \w)"),  # before the space between two words
    re.compile(r"(?<=。)(?=\w)"),
)


class Encoder(Protocol):
    """The tokenizer interface used here."""

    def encode_arrays(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """Token ids of each text; special tokens in it are encoded as plain text."""
        ...


class Chunk(NamedTuple):
    """Consecutive text of a document that can be encoded separately.

    `before` is the preceding character in the document, "" at the start. It is encoded with the chunk and its ids are
    dropped, so that a tokenizer never treats the chunk as the beginning of a text.
    """

    text: str
    before: str


class Cutter:
    """Splits a document given to `push` in pieces into chunks; `finish` returns the last one and resets."""

    def __init__(self, tokenizer: Encoder, size: int = CHUNK) -> None:
        self.tokenizer, self.size = tokenizer, size
        self._held, self._before, self._wanted = "", "", 2 * size
        self._heads = {"": np.empty(0, np.uint32)}  # ids of the characters that precede chunks

    def push(self, text: str) -> Iterator[Chunk]:
        """Add text, and yield the chunks that are complete."""
        self._held += text
        while len(self._held) >= self._wanted:
            cut = self._cut()
            if cut:
                yield Chunk(self._held[:cut], self._before)
                self._held, self._before, self._wanted = self._held[cut:], self._held[cut - 1], 2 * self.size
            else:
                self._wanted = 2 * len(self._held)  # doubling keeps the cost of the tries linear in the text

    def finish(self) -> Chunk:
        """Return the rest of the document, and reset."""
        last = Chunk(self._held, self._before)
        self._held, self._before, self._wanted = "", "", 2 * self.size
        return last

    def without_before(
        self, chunks: Sequence[Chunk], rows: Sequence[NDArray[np.uint32]]
    ) -> Iterator[NDArray[np.uint32]]:
        """Ids of each chunk from those of `before + text`; concatenated, they are the document's ids."""
        for chunk, ids in zip(chunks, rows, strict=True):
            if chunk.before not in self._heads:
                [self._heads[chunk.before]] = self.tokenizer.encode_arrays([chunk.before])
            head = self._heads[chunk.before]
            if not _begins(ids, head):
                raise LuthierError(
                    "this tokenizer joins a line end to text far after it: give the text in smaller files"
                )
            yield ids[len(head) :]

    def _cut(self) -> int:
        """Position at which the held text can be cut after the chunk size, or 0."""
        for place in PLACES:
            for match in islice(place.finditer(self._held, self.size), TRIES):
                if self._keeps_ids(match.start()):
                    return match.start()
        return 0

    def _keeps_ids(self, cut: int) -> bool:
        held = self._held
        left, before, right = held[max(cut - WINDOW, 0) : cut], held[cut - 1], held[cut : cut + WINDOW]
        across, alone, head, after = self.tokenizer.encode_arrays([left + right, left, before, before + right])
        return _begins(after, head) and np.array_equal(across, np.concatenate((alone, after[len(head) :])))


def _begins(ids: NDArray[np.uint32], head: NDArray[np.uint32]) -> bool:
    return np.array_equal(ids[: len(head)], head)
