"""Exceptions from the search for dead code are names that the code still has."""

from __future__ import annotations

import ast

from source_trees import ROOT, SRC, trees


def test_each_name_that_vulture_allows_is_in_the_code():
    allowed = ast.parse((ROOT / "tools" / "allowed_by_vulture.py").read_text(encoding="utf-8"))
    names = {node.attr for node in ast.walk(allowed) if isinstance(node, ast.Attribute)}
    text = "\n".join(path.read_text(encoding="utf-8") for path, _ in trees(SRC))
    assert [name for name in sorted(names) if name not in text] == []
