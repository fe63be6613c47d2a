"""The map in CONTRIBUTING.md is what import-linter holds, and every package says what it is about."""

from __future__ import annotations

import ast

import pytest

import rooms


def test_the_map_of_contributing_is_the_contract_of_import_linter():
    message = "renew the map: python tools/rooms.py --write"
    assert rooms.in_page(rooms.PAGE.read_text(encoding="utf-8")) == rooms.table(), message


def test_a_page_without_the_marks_is_an_error():
    with pytest.raises(ValueError, match=r"CONTRIBUTING\.md has no <!-- rooms"):
        rooms.in_page("# Working on Luthier\n")


def test_every_room_is_on_one_floor():
    names = [name for _, name in rooms.floors()]
    assert len(names) == len(set(names))
    there = {path.stem for path in rooms.PACKAGE.glob("*.py") if not path.stem.startswith("__")}
    there |= {path.parent.name for path in rooms.PACKAGE.glob("*/__init__.py")}
    assert set(names) == there


@pytest.mark.parametrize("path", sorted(rooms.PACKAGE.rglob("__init__.py")), ids=lambda path: path.parent.name)
def test_a_package_says_in_one_line_what_it_is_about(path):
    first, _, _ = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")
    assert first.endswith("."), f"{path}: the first line of its docstring is no sentence: {first!r}"
