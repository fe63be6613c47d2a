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
METHODS = {"LanguageModel": ("generate", "stream", "save", "chat"), "TrainedRun": ("plot", "report")}


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
        with contextlib.redirect_stdout(printed), raising(example.exc_msg):
            value = run(example.source, names)
        if example.exc_msg is not None:
            continue
        if printing(example.source):
            found = printed.getvalue()  # what a function prints on its way is no part of its example
        else:
            found = "" if value is None else f"{value!r}\n"
        same = CHECKER.check_output(example.want, found, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        assert same, f"{example.source}gave\n{found}and not\n{example.want}"


@contextlib.contextmanager
def raising(message: str | None) -> Iterator[None]:
    """An error with this message and its class, if there is to be one."""
    if message is None:
        yield
        return
    name, _, text = message.strip().partition(": ")
    with pytest.raises(luthier.LuthierError) as caught:
        yield
    assert f"{type(caught.value).__module__}.{type(caught.value).__qualname__}" == name
    assert str(caught.value) == text


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
