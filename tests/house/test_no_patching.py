"""Luthier changes no class and no module while it runs: what a name means does not hang on what ran before."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from source_trees import SRC, module_name, trees

ALLOWED = {  # settings that the standard library documents as such
    ("luthier.cli.main", "warnings.showwarning"),  # within catch_warnings, which restores it
    ("luthier.training.compiling", "tempfile.tempdir"),
    ("luthier.terminal.streams", "sys.stdout"),
    ("luthier.terminal.streams", "sys.stderr"),
}
INSIDES = {"__class__", "__bases__", "__code__", "__globals__", "__defaults__", "__kwdefaults__", "__func__"}
METHODS = {"forward", "__call__", "__init__", "step", "backward"}  # replaced on an instance, they hide the class's
PATCHERS = {"unittest.mock", "mock", "wrapt", "forbiddenfruit", "types.MethodType"}


def patches(tree: ast.Module) -> Iterator[str]:
    """What a file would change of classes and modules: `Name.attribute`, or the call that does it."""
    names = {name for node in ast.walk(tree) for name in shared_names(node)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.Delete)):
            for target in node.targets:
                yield from (found for part in ast.walk(target) if (found := changed(part, names)))
        elif isinstance(node, (ast.AugAssign, ast.AnnAssign)) and (found := changed(node.target, names)):
            yield found
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            base = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            given = base + [".".join([*base, alias.name]) for alias in node.names]
            yield from (f"import {name}" for name in given if name in PATCHERS)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("setattr", "delattr", "__setattr__")):
            if node.args and root(node.args[0]) in names:
                yield ast.unparse(node)
            if (
                len(node.args) > 1
                and isinstance(node.args[1], ast.Constant)
                and node.args[1].value in INSIDES | METHODS
            ):
                yield ast.unparse(node)


def shared_names(node: ast.AST) -> Iterator[str]:
    """Names of classes and modules: imported, or of a class of the file. (A method's own class among them: `cls`.)"""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.ClassDef):
        yield from (node.name, "cls")


def changed(target: ast.AST, names: set[str]) -> str | None:
    """The attribute that an assignment would change of a class or module."""
    if not isinstance(target, ast.Attribute) or isinstance(target.ctx, ast.Load):
        return None
    patched = root(target.value) in names or target.attr in INSIDES
    patched = patched or (target.attr in METHODS and ast.unparse(target.value) != "self")
    return ast.unparse(target) if patched else None


def root(node: ast.AST) -> str | None:
    """`a` of `a.b.c`, of `type(a)` and of `a.__class__.b` the type; None of anything else."""
    while isinstance(node, ast.Attribute):
        if node.attr == "__class__":
            return "cls"
        node = node.value
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "type":
        return "cls"
    return node.id if isinstance(node, ast.Name) else None


def test_no_class_and_no_module_is_changed_at_run_time():
    found = {(module_name(path), patch) for path, tree in trees(SRC) for patch in patches(tree)}
    assert found - ALLOWED == set(), "take a constructor's argument, a wrapper or a context instead"
    assert found >= ALLOWED, "an exception that nothing needs any more"


@pytest.mark.parametrize(
    "code",
    [
        "from luthier.model.experts import Experts\nExperts.forward = print",
        "from luthier.model import experts\nexperts.Experts.forward = print",
        "import torch\ntorch.nn.Linear.forward = print",
        "import torch\n\ndef f():\n    torch.load = print",
        "class A: pass\ndef f(x):\n    A.b = x",
        "class A:\n    def f(self):\n        type(self).b = 1",
        "class A:\n    @classmethod\n    def f(cls):\n        cls.count += 1",
        "def f(layer):\n    layer.__class__ = object",
        "def f(layer):\n    layer.__class__.forward = print",
        "def f(layer):\n    layer.forward = print",
        "def f(a, b):\n    a.forward, b.c = print, 1",
        "import json\nsetattr(json, 'loads', print)",
        "def f(layer):\n    setattr(layer, 'forward', print)",
        "import json\ndel json.loads",
        "from unittest.mock import patch",
        "import unittest.mock",
        "from types import MethodType",
    ],
)
def test_a_patch_is_found(code):
    assert list(patches(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "class A:\n    def __init__(self, forward):\n        self.forward = forward",
        "def f(layer):\n    layer.length = 3",
        "class A:\n    b = 1",
        "import os\nos.environ['A'] = 'b'",
    ],
)
def test_what_belongs_to_an_object_may_change(code):
    assert not list(patches(ast.parse(code)))
