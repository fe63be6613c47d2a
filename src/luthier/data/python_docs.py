"""The corpus available on every machine: the prose of the running Python's documentation, read without a network.

It contains the language reference (`pydoc_data.topics`, the text behind `help("for")`) and the docstrings of the
standard library, parsed from the source files: no module is imported and no code runs. Code examples, grammar and
diagrams are left out, so that the rest reads as English.
"""

from __future__ import annotations

import ast
import re
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from luthier.errors import LuthierError

SKIPPED = {"test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages"}
SHORTEST_DOCUMENT = 200  # characters; shorter text is a label, not prose
UNDERLINE = re.compile(r"^([*=~^\"#+-])\1{2,}\s*$", re.MULTILINE)
CODE = re.compile(r"^\s*(>>>|\.\.\. |\$ |#!)|::=", re.MULTILINE)
WORDS = re.compile(r"[A-Za-z]{2,}|\ba\b|\bI\b")


@cache
def documents() -> tuple[str, ...]:
    """The documents in a fixed order: the topics by name, then one for each module of the standard library.

    Raises LuthierError when this Python was installed without its documentation and sources.
    """
    texts = [*_topics(), *_modules(Path(sysconfig.get_path("stdlib")))]
    seen: set[str] = set()  # a repeated paragraph could leak from training into validation
    found = tuple(text for text in (_unseen(text, seen) for text in texts) if len(text) >= SHORTEST_DOCUMENT)
    if not found:
        raise LuthierError(
            f"the Python at {sys.prefix} came without its standard library's sources, so 'python-docs' is empty; "
            "name another corpus or a file of your own"
        )
    return found


def _unseen(text: str, seen: set[str]) -> str:
    paragraphs = [p for p in dict.fromkeys(text.split("\n\n")) if p not in seen]
    seen.update(paragraphs)
    return "\n\n".join(paragraphs) + "\n"


def prose(text: str) -> str:
    """Paragraphs of a documentation text that are English sentences or headings, in order."""
    text = UNDERLINE.sub("", text.expandtabs())
    paragraphs = (paragraph.strip("\n").rstrip() for paragraph in re.split(r"\n\s*\n", text))
    return "\n\n".join(paragraph for paragraph in paragraphs if _reads_well(paragraph))


def _reads_well(paragraph: str) -> bool:
    """Whether a paragraph is mostly words: tables, code and grammar are mostly symbols."""
    if not paragraph.strip() or CODE.search(paragraph):
        return False
    letters = sum(map(len, WORDS.findall(paragraph)))
    return letters >= 0.75 * len("".join(paragraph.split()))


def _topics() -> Iterator[str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some systems package it separately
        return
    for name in sorted(topics):
        yield prose(topics[name])


def _modules(library: Path) -> Iterator[str]:
    for path in sorted(library.rglob("*.py")):
        if SKIPPED.isdisjoint(path.relative_to(library).parts):
            yield "\n\n".join(filter(None, map(prose, _docstrings(path))))


def _docstrings(path: Path) -> Iterator[str]:
    """Docstrings of a source file, in source order."""
    try:
        module = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):  # skip broken files in someone's installation
        return
    owners: list[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef] = [module]
    while owners:
        owner = owners.pop()
        if text := ast.get_docstring(owner):
            yield text
        inner = (n for n in owner.body if isinstance(n, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef))
        owners.extend(reversed(list(inner)))
