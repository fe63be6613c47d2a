"""Split a text into train, validation and test.

By characters, the text is cut at two positions: train comes first, then validation, then test (as in nanoGPT and the
GPT-2 course: with validation 0.1, the last tenth). By documents, complete documents are drawn at random for each split,
so that no document is in two splits. Either way the split depends only on the text and the seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from luthier.data.text import Piece
from luthier.errors import LuthierError, UsageError, setting

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Fractions:
    """Fractions of a text for each split."""

    validation: float = 0.1
    """fraction of the text for validation"""
    test: float = 0.0
    """fraction of the text for the final test"""
    split_by: Literal["auto", "characters", "documents"] = "auto"
    """unit of the split; auto: documents when there are enough of them for these fractions, else characters"""
    seed: int = 0
    """random seed for the choice of documents"""

    def __post_init__(self) -> None:
        if not (0 <= self.validation < 1 and 0 <= self.test < 1 and self.validation + self.test < 1):
            raise UsageError(
                f"{setting('validation')} {self.validation} and {setting('test')} {self.test} are fractions "
                "of the text: "
                "each from 0 to below 1, and less than 1 together"
            )
        if self.split_by not in ("auto", "characters", "documents"):
            raise UsageError(f"a text is split by 'auto', 'characters' or 'documents', not by {self.split_by!r}")

    @property
    def wanted(self) -> tuple[str, ...]:
        """Names of the requested splits."""
        return tuple(split for split in SPLITS if split == "train" or getattr(self, split) > 0)


class Size(NamedTuple):
    """Size of a text."""

    characters: int
    documents: int


class Span(NamedTuple):
    """Consecutive text that belongs to one split."""

    split: str
    text: str
    ends: bool  # the split's part of the document ends here
    whole: bool  # ... and so does the document itself


def measure(pieces: Iterable[Piece]) -> Size:
    """Count characters and documents in one pass."""
    characters = documents = 0
    for piece in pieces:
        characters += len(piece.text)
        documents += piece.ends
    return Size(characters, documents)


def resolve(fractions: Fractions, size: Size) -> Literal["characters", "documents"]:
    """Resolve "auto" for a text of this size.

    Raises LuthierError when there are fewer documents than splits to fill with them.
    """
    if fractions.split_by == "documents":
        if sum(_counts(fractions, size.documents)) >= size.documents:
            asked = f"validation {fractions.validation}, test {fractions.test}"
            raise LuthierError(f"too few documents ({size.documents:,}) for {asked} by documents: split by characters")
        return "documents"
    shares = [share for share in (fractions.validation, fractions.test) if share]
    enough = bool(shares) and size.documents * min(shares) >= 1
    return "documents" if fractions.split_by == "auto" and enough else "characters"


def spans(pieces: Iterable[Piece], fractions: Fractions, size: Size) -> Iterator[Span]:
    """Assign each piece of a text of known size to its split."""
    if resolve(fractions, size) == "documents":
        return _by_documents(pieces, fractions, size.documents)
    return _by_characters(pieces, fractions, size.characters)


def _by_documents(pieces: Iterable[Piece], fractions: Fractions, documents: int) -> Iterator[Span]:
    validation, test = _counts(fractions, documents)
    order = np.random.default_rng(fractions.seed).permutation(documents)
    split_of = np.zeros(documents, np.uint8)
    split_of[order[:validation]] = 1
    split_of[order[validation : validation + test]] = 2
    number = 0
    for piece in pieces:
        yield Span(SPLITS[split_of[number]], piece.text, piece.ends, piece.ends)
        number += piece.ends


def _counts(fractions: Fractions, documents: int) -> tuple[int, int]:
    """Number of documents for validation and for test: at least one if the fraction is not 0."""
    validation, test = (
        max(1, int(documents * share)) if share else 0 for share in (fractions.validation, fractions.test)
    )
    return validation, test


def _by_characters(pieces: Iterable[Piece], fractions: Fractions, characters: int) -> Iterator[Span]:
    # int(), not round(): nanoGPT and the course train on int(0.9 * n) characters
    stops = [
        int(characters * (1 - fractions.validation - fractions.test)),
        int(characters * (1 - fractions.test)),
        characters,
    ]
    position, split = 0, 0
    for piece in pieces:
        text = piece.text
        while text:
            while position == stops[split]:
                split += 1
            part, text = text[: stops[split] - position], text[stops[split] - position :]
            position += len(part)
            whole = piece.ends and not text
            yield Span(SPLITS[split], part, whole or position == stops[split], whole)
