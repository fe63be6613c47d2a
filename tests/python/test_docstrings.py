"""The example in the docstring of each public name runs, and gives what it says."""

from __future__ import annotations

import ast
import contextlib
import doctest
import inspect
import io
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import luthier

CHECKER = doctest.OutputChecker()
METHODS = {"LanguageModel": ("generate", "stream", "save"), "TrainedRun": ("plot", "report")}


def public() -> Iterator[tuple[str, Any]]:
    """Functions and classes that people call by name."""
    for name in luthier.__all__:
        value = getattr(luthier, name)
        if isinstance(value, ModuleType):
            yield from (
                (f"luthier.{name}.{inner}", getattr(value, inner))
                for inner in value.__all__
                if callable(getattr(value, inner))
            )
        elif callable(value):
            yield f"luthier.{name}", value
        if name in METHODS:
            yield from ((f"luthier.{name}.{method}", getattr(value, method)) for method in METHODS[name])


EXAMPLES = {
    name: doctest.DocTestParser().get_examples(inspect.getdoc(value) or "")
    for name, value in public()
    if not inspect.isclass(value)
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_of_a_docstring_gives_what_it_says(name, place):
    assert EXAMPLES[name], f"{name} has no example"
    names: dict[str, Any] = {"luthier": luthier}
    for example in EXAMPLES[name]:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            value = run(example.source, names)
        if printing(example.source):
            found = printed.getvalue()  # what a function prints on its way is no part of its example
        else:
            found = "" if value is None else f"{value!r}\n"
        same = CHECKER.check_output(example.want, found, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        assert same, f"{example.source}gave\n{found}and not\n{example.want}"


def run(source: str, names: dict[str, Any]) -> Any:
    """The value of an expression; None of a statement."""
    try:
        ast.parse(source, mode="eval")
    except SyntaxError:
        exec(source, names)
        return None
    return eval(source, names)


def printing(source: str) -> bool:
    return source.startswith(("print(", "for "))
