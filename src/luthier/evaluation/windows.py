"""Sliding windows over a text's tokens, in which each token is scored once with sufficient context.

A window's inputs are its tokens but the last; its targets are its tokens but the first. Windows begin every `stride`
tokens. In each but the first, only the last `stride` tokens are scored and the others are context, so that no token but
those at the beginning of a document has a context shorter than context_length - stride.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol


class TokenSpan(NamedTuple):
    """Consecutive tokens of a document. A document's spans follow one another; `ends` marks the last.

    sizes: bytes of the text that each token stands for.
    """

    ids: Sequence[int]
    sizes: Sequence[int]
    ends: bool


class Window(NamedTuple):
    """ids: up to context_length + 1. scored: number of tokens at the end to score. n_bytes: bytes of those."""

    ids: list[int]
    scored: int
    n_bytes: int


class Table(Protocol):
    """Vocabulary of a tokenizer."""

    @property
    def table(self) -> list[bytes]: ...


class Tokenizer(Protocol):
    """The part of `luthier.tokenizers.core.tokenizer.Tokenizer` that scoring uses."""

    @property
    def pieces(self) -> Table: ...
    @property
    def adds_bos(self) -> bool: ...
    @property
    def bos_id(self) -> int | None: ...
    def encode(self, text: str) -> list[int]: ...


def token_span(tokenizer: Tokenizer, ids: Sequence[int], text: str, *, starts: bool, ends: bool) -> TokenSpan:
    """The run of a text with known ids. A document starts with the bos token if the tokenizer adds one."""
    table = tokenizer.pieces.table
    sizes = [len(table[number]) for number in ids]
    if sizes:  # a tokenizer may prepend a space or normalize the text: count the original bytes
        sizes[0] += len(text.encode()) - sum(sizes)
    if starts and tokenizer.adds_bos and tokenizer.bos_id is not None:
        return TokenSpan([tokenizer.bos_id, *ids], [0, *sizes], ends)
    return TokenSpan(ids, sizes, ends)


def limited(spans: Iterable[TokenSpan], tokens: int) -> Iterator[TokenSpan]:
    """The first spans, up to `tokens` tokens to score."""
    left, starts = tokens, True
    for span in spans:
        first = 1 if starts and span.ids else 0  # a document's first token has no context to be predicted from
        take = min(len(span.ids), left + first)
        left -= take - first
        yield TokenSpan(span.ids[:take], span.sizes[:take], span.ends or left == 0)
        if left == 0:
            return
        starts = span.ends or (starts and not span.ids)


def windows(spans: Iterable[TokenSpan], context_length: int, stride: int) -> Iterator[Window]:
    """Windows of documents; none spans two documents."""
    ids: list[int] = []  # from the beginning of the next window on
    sizes: list[int] = []
    scored = 1  # leading ids not to score: scored by earlier windows, or without context
    for span in spans:
        ids += span.ids
        sizes += span.sizes
        start = 0
        while len(ids) - start > context_length:
            end = start + context_length + 1
            yield Window(ids[start:end], end - start - scored, sum(sizes[start + scored : end]))
            start += stride
            scored = end - start
        del ids[:start], sizes[:start]
        if span.ends:
            if len(ids) > scored:
                yield Window(ids, len(ids) - scored, sum(sizes[scored:]))
            ids, sizes, scored = [], [], 1
