from __future__ import annotations

import sys

from luthier.data import python_docs
from luthier.data.sources import Texts

MODULE = '''"""Count the stars of the sky.

A star is counted once it has been seen twice.

>>> count("sky")
6000
"""
import antigravity

raise SystemExit("this module is parsed, never run")

class Sky:
    """The sky at night, with all of its stars."""

    def look(self):
        """Look up and wait for a while."""

async def wait(): "Wait until the clouds have gone away."
'''


def test_prose_stays_and_code_grammar_and_drawings_go():
    text = (
        "The assert statement\n********************\n\nAssert statements are a convenient way to test.\n\n"
        '   assert_stmt ::= "assert" expression\n\n   if __debug__:\n      if not x: raise E(a, b[0])\n\n'
        "+------+------+\n| a    | b    |\n\n>>> 1 + 1\n2\n\nThat is all.\n"
    )
    assert (
        python_docs.prose(text)
        == "The assert statement\n\nAssert statements are a convenient way to test.\n\nThat is all."
    )


def test_docstrings_are_read_in_order_without_running_the_module(tmp_path, monkeypatch):
    monkeypatch.setattr(python_docs, "SHORTEST_DOCUMENT", 0)
    (tmp_path / "stars.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "skipped.py").write_text(MODULE)
    assert [text for text in python_docs._modules(tmp_path) if text] == [
        "Count the stars of the sky.\n\nA star is counted once it has been seen twice.\n\n"
        "The sky at night, with all of its stars.\n\nLook up and wait for a while.\n\n"
        "Wait until the clouds have gone away."
    ]
    assert "antigravity" not in sys.modules


def test_the_running_python_gives_a_megabyte_or_more_in_a_fixed_order(monkeypatch):
    documents = list(Texts().documents())
    assert sum(map(len, documents)) > 1_000_000
    assert len(documents) > 200
    paragraphs = [p for document in documents for p in document.removesuffix("\n").split("\n\n")]
    assert len(set(paragraphs)) == len(paragraphs), "no paragraph is in two documents"
    assert documents == list(Texts().documents())
