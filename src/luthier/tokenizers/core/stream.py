"""Incremental decoding in complete characters: the bytes of a character may span several tokens."""

from __future__ import annotations

import codecs
from typing import Protocol

from luthier.tokenizers.core.pieces import Pieces


class Reads(Protocol):
    """The part of Tokenizer that a Stream uses."""

    @property
    def pieces(self) -> Pieces: ...
    def piece(self, token: int) -> bytes: ...
    def decode(self, ids: list[int]) -> str: ...


class Stream:
    """Decodes tokens incrementally. The joined results of `push` and `flush` equal `decode` of all ids.

    Invalid UTF-8, which a model may generate, becomes U+FFFD once it is certain that it is invalid.
    """

    def __init__(self, tokenizer: Reads) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(tokenizer.pieces.errors)
        self._begins = tokenizer.pieces.drops_space
        self._first: list[int] = []  # the token that begins the text, while nothing of it was given
        self._ids: list[int] = []  # these two only where pieces do not simply join
        self._given = ""

    def push(self, token: int) -> str:
        """The text that this token completes; "" while a character is incomplete."""
        if self._tokenizer.pieces.joins:
            piece = self._tokenizer.piece(token)
            if self._begins and piece and not self._first:
                self._first = [token]
            return self._begin(self._utf8.decode(piece))
        self._ids.append(token)
        return self._grow()

    def flush(self) -> str:
        """The rest of the text: U+FFFD for an incomplete character, usually ""."""
        return self._begin(self._utf8.decode(b"", final=True)) if self._tokenizer.pieces.joins else self._grow()

    def _begin(self, text: str) -> str:
        if self._begins and text:
            self._begins = False
            return text.removeprefix(" ") if self._tokenizer.pieces.drops_space_of(self._first) else text
        return text

    def _grow(self) -> str:
        text = self._tokenizer.decode(self._ids)
        new = text[len(self._given) :] if text.startswith(self._given) else ""
        self._given += new
        return new
