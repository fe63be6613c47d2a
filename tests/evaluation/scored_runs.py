"""Whole documents as runs of tokens to score."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from luthier.evaluation.windows import Run, Tokenizer, run_of


def runs_of(tokenizer: Tokenizer, documents: Iterable[str]) -> Iterator[Run]:
    """Encode each document as one run."""
    for document in documents:
        yield run_of(tokenizer, tokenizer.encode(document), document, starts=True, ends=True)
