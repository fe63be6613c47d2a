"""Any bytes are printable as text in which everything can be seen."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.inspect.printable import printable


@pytest.mark.parametrize(
    ("piece", "text"),
    [
        (b" the", " the"),
        ("été 東".encode(), "été 東"),
        (b"\xc3", r"\xc3"),
        (b"a\r\n\tb\x00\x1b[31m", r"a\x0d↵⇥b\x00\x1b[31m"),
        ("a\u202eb\u200b\u2028".encode(), r"a\u202eb\u200b\u2028"),
        ("\u0301a".encode(), "◌\u0301a"),
        (b"<b>&amp;", "<b>&amp;"),
        (b"x" * 100, "x" * 39 + "…"),
        (b"", ""),
    ],
)
def test_tokens_are_shown(piece, text):
    assert printable(piece) == text


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass"))))
def test_nothing_invisible_is_left(piece):
    text = printable(piece)
    assert len(text) <= 10 * 40 + 1
    assert not any(unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} for character in text)
    assert bool(text) == bool(piece)
