"""A text's tokens in windows that slide over it, so that each token is scored once and with enough before it.

A window is what a model reads at once: its tokens but the last go in, its tokens but the first are to be named. Windows
begin every `stride` tokens. Of each but the first, only the last `stride` are scored, the others are context, so that
no token but those at the beginning of a document has fewer than context_length - stride before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol


class Run(NamedTuple):
    """A run of a document's tokens. A document's runs follow one another, and `ends` marks the last.

    sizes: the bytes of the text that each token stands for.
    """

    ids: Sequence[int]
    sizes: Sequence[int]
    ends: bool


class Window(NamedTuple):
    """ids: up to context_length + 1. scored: how many of the last are. n_bytes: the bytes of those."""

    ids: list[int]
    scored: int
    n_bytes: int


class Table(Protocol):
    """The pieces of a tokenizer."""

    @property
    def table(self) -> list[bytes]: ...


class Tokenizer(Protocol):
    """What is needed of `luthier.tokenizers.core.tokenizer.Tokenizer`."""

    @property
    def pieces(self) -> Table: ...
    @property
    def adds_bos(self) -> bool: ...
    @property
    def bos_id(self) -> int | None: ...
    def encode(self, text: str) -> list[int]: ...


def runs_of(tokenizer: Tokenizer, documents: Iterable[str]) -> Iterator[Run]:
    """Each document as one run."""
    for document in documents:
        yield run_of(tokenizer, tokenizer.encode(document), document, starts=True, ends=True)


def run_of(tokenizer: Tokenizer, ids: Sequence[int], text: str, *, starts: bool, ends: bool) -> Run:
    """The run of a text whose ids are known. A document starts with the bos token, where the tokenizer adds one."""
    table = tokenizer.pieces.table
    sizes = [len(table[number]) for number in ids]
    if sizes:  # a tokenizer may put a space before a text, or normalise it: the text's own bytes are what is counted
        sizes[0] += len(text.encode()) - sum(sizes)
    if starts and tokenizer.adds_bos and tokenizer.bos_id is not None:
        return Run([tokenizer.bos_id, *ids], [0, *sizes], ends)
    return Run(ids, sizes, ends)


def limited(runs: Iterable[Run], tokens: int) -> Iterator[Run]:
    """The first runs, with so many tokens to score."""
    left, starts = tokens, True
    for run in runs:
        first = 1 if starts and run.ids else 0  # a document's first token has nothing before it to be named by
        take = min(len(run.ids), left + first)
        left -= take - first
        yield Run(run.ids[:take], run.sizes[:take], run.ends or left == 0)
        if left == 0:
            return
        starts = run.ends or (starts and not run.ids)


def windows(runs: Iterable[Run], context_length: int, stride: int) -> Iterator[Window]:
    """The windows of documents, each document by itself."""
    ids: list[int] = []  # from the beginning of the next window on
    sizes: list[int] = []
    scored = 1  # of these ids: those that earlier windows scored, or that have nothing before them
    for run in runs:
        ids += run.ids
        sizes += run.sizes
        start = 0
        while len(ids) - start > context_length:
            end = start + context_length + 1
            yield Window(ids[start:end], end - start - scored, sum(sizes[start + scored : end]))
            start += stride
            scored = end - start
        del ids[:start], sizes[:start]
        if run.ends:
            if len(ids) > scored:
                yield Window(ids, len(ids) - scored, sum(sizes[scored:]))
            ids, sizes, scored = [], [], 1
