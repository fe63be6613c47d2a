"""Whole documents as runs of tokens to score."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from luthier.evaluation.windows import Tokenizer, TokenSpan, token_span


def runs_of(tokenizer: Tokenizer, documents: Iterable[str]) -> Iterator[TokenSpan]:
    """Encode each document as one run."""
    for document in documents:
        yield token_span(tokenizer, tokenizer.encode(document), document, starts=True, ends=True)
