"""Names, signatures, verbs and options are those that people have written into their programs."""

from __future__ import annotations

import difflib

import pytest

import surface


@pytest.mark.parametrize("name", surface.FILES)
def test_what_people_rely_on_is_unchanged(name):
    known = (surface.FOLDER / name).read_text(encoding="utf-8")
    found = surface.FILES[name]()
    changes = "\n".join(difflib.unified_diff(known.splitlines(), found.splitlines(), "known", "now", n=0, lineterm=""))
    assert not changes, f"where that is meant: python tools/surface.py --write\n{changes}"


def test_every_verb_is_listed_with_its_options():
    lines = (surface.FOLDER / "command_line.txt").read_text(encoding="utf-8").splitlines()
    place = lines.index("luthier tokenizer show")
    assert lines[place + 1 : place + 4] == [
        "    MODEL (required)",
        "    TEXT (required)",
        "    --special, --no-special = False",
    ]
    place = lines.index("luthier train")
    assert "    [DATA ...]" in lines[place:]
    assert "    --invalid {error,replace} = error" in lines[place:]
