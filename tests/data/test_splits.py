from __future__ import annotations

from collections import Counter
from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.data.splits import Fractions, Size, Span, measure, resolve, spans
from luthier.data.text import Piece
from luthier.errors import LuthierError, UsageError


def split(pieces: list[Piece], fractions: Fractions) -> dict[str, str]:
    parts: dict[str, str] = {}
    for span in spans(pieces, fractions, measure(pieces)):
        parts[span.split] = parts.get(span.split, "") + span.text
    return parts


def test_by_characters_the_last_tenth_is_validation_as_in_nanogpt():
    text = "".join(chr(97 + i % 26) for i in range(20_479))
    at = int(0.9 * len(text))
    assert split([Piece(text, True)], Fractions()) == {"train": text[:at], "validation": text[at:]}


@given(
    pieces=st.lists(st.tuples(st.text(min_size=1), st.booleans()), min_size=1).map(lambda ps: [Piece(*p) for p in ps]),
    validation=st.floats(0, 0.5),
    test=st.floats(0, 0.49),
)
def test_by_characters_nothing_is_lost_or_moved(pieces, validation, test):
    pieces[-1] = Piece(pieces[-1].text, True)
    fractions = Fractions(validation, test, "characters")
    found = list(spans(pieces, fractions, measure(pieces)))
    text = "".join(piece.text for piece in pieces)
    assert "".join(span.text for span in found) == text
    order = [("train", "validation", "test").index(span.split) for span in found]
    assert order == sorted(order)
    assert sum(span.whole for span in found) == sum(piece.ends for piece in pieces)
    assert all(span.ends for span in found if span.whole)
    for before, after in pairwise(found):
        assert before.ends or before.split == after.split, "a split's part of a document ends with the split"


def test_by_documents_each_goes_whole_to_one_split_in_its_own_order():
    pieces = [piece for i in range(100) for piece in (Piece(f"<{i}", False), Piece(">", True))]
    parts = split(pieces, Fractions(0.1, 0.05, "documents", seed=3))
    numbers = {name: [int(n) for n in text.strip("<>").split("><")] for name, text in parts.items()}
    assert Counter({name: len(found) for name, found in numbers.items()}) == {"train": 85, "validation": 10, "test": 5}
    assert sorted(chain(*numbers.values())) == list(range(100))
    assert all(found == sorted(found) for found in numbers.values())
    assert split(pieces, Fractions(0.1, 0.05, "documents", seed=3)) == parts
    assert split(pieces, Fractions(0.1, 0.05, "documents", seed=4)) != parts


@pytest.mark.parametrize(
    ("fractions", "documents", "by"),
    [
        (Fractions(), 1, "characters"),
        (Fractions(), 9, "characters"),
        (Fractions(), 10, "documents"),
        (Fractions(0.2, 0.01), 99, "characters"),
        (Fractions(0.2, 0.01), 100, "documents"),
        (Fractions(0.0), 5, "characters"),
        (Fractions(split_by="characters"), 1000, "characters"),
        (Fractions(split_by="documents"), 2, "documents"),
    ],
)
def test_auto_takes_documents_when_each_split_gets_its_share(fractions, documents, by):
    assert resolve(fractions, Size(10_000, documents)) == by


@given(documents=st.integers(1, 60), validation=st.floats(0, 0.99), test=st.floats(0, 0.99))
def test_by_documents_no_split_is_empty_or_it_is_an_error(documents, validation, test):
    if validation + test >= 1:
        return
    pieces = [Piece("x", True)] * documents
    fractions = Fractions(validation, test, "documents")
    kept = [max(1, int(documents * share)) for share in (validation, test) if share]
    if sum(kept) >= documents:
        with pytest.raises(LuthierError, match="too few documents"):
            split(pieces, fractions)
    else:
        parts = split(pieces, fractions)
        assert [len(parts[name]) for name in fractions.wanted] == [documents - sum(kept), *kept]


@pytest.mark.parametrize(
    "values", [{"validation": 1.0}, {"validation": -0.1}, {"validation": 0.5, "test": 0.5}, {"split_by": "x"}]
)
def test_fractions_outside_their_range_are_errors(values):
    with pytest.raises(UsageError):
        Fractions(**values)


def test_a_cut_document_ends_in_each_split_but_is_whole_only_once():
    found = list(spans([Piece("abcdefghij", True)], Fractions(0.3, split_by="characters"), Size(10, 1)))
    assert found == [Span("train", "abcdefg", True, False), Span("validation", "hij", True, True)]
