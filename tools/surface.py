"""What people and programs rely on: the names of `luthier` in Python, and the verbs and options of the command line.

    python tools/surface.py --write

renews tests/house/python_names.txt and tests/house/command_line.txt, which a test compares. A change there changes what
people have written: renew them when that is meant, and say it in CHANGELOG.md.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import re
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "house"
WIDTH = "1000"  # columns, so that no option is broken over two lines
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
FRAME = " │|"
INTERNAL = {  # returned too, and used by Luthier's own code
    "luthier.model.transformer", "luthier.generation.draft", "luthier.run.plan", "luthier.tokenizers.core.pieces",
    "luthier.tokenizers.core.stream",
}  # fmt: skip
# an option with its other names and its values, or an argument in capitals; two spaces stand before what it means
ENTRY = re.compile(r"(--?[a-z]\S*(?: [A-Z{\[]\S*)*(?: \.\.\.)?(?:, --\S+)*|[A-Z\[][A-Z_ .\[\]]*?)(?:  |$)")


def python_names() -> str:
    """Each name of `luthier` and of the modules among them: signatures, and the public members of classes.

    Then those of the classes that they return: what people hold in their hands.
    """
    import luthier

    public = {f"luthier.{name}": getattr(luthier, name) for name in luthier.__all__}
    for path, module in [(path, value) for path, value in public.items() if isinstance(value, ModuleType)]:
        del public[path]
        public |= {f"{path}.{name}": getattr(module, name) for name in module.__all__}
    lines = [line for path in sorted(public) for line in _lines(path, public[path])]
    known = {value for value in public.values() if inspect.isclass(value)}
    waiting = sorted(public.values(), key=str)
    returned: dict[str, type] = {}
    while waiting:
        for kind in _returned(waiting.pop()) - known:
            known.add(kind)
            waiting.append(kind)
            returned[f"{kind.__module__}.{kind.__qualname__}"] = kind
    lines += ["", "returned:", ""]
    lines += [line for path in sorted(returned) for line in _lines(path, returned[path])]
    return "".join(f"{line}\n" for line in lines)


def _returned(value: Any) -> set[type]:
    """Luthier's classes in the return annotations of a function, or of the public methods and properties of a class."""
    if inspect.isclass(value):
        members = [inspect.getattr_static(value, name, None) for name in vars_of(value)]
        functions = [getattr(each, "fget", None) or getattr(each, "func", None) or each for each in members]
    else:
        functions = [value]
    found: set[type] = set()
    for function in filter(inspect.isfunction, functions):
        words = re.findall(r"\w+", str(function.__annotations__.get("return", "")))
        found |= {function.__globals__[word] for word in words if inspect.isclass(function.__globals__.get(word))}
    return {kind for kind in found if kind.__module__.startswith("luthier.") and kind.__module__ not in INTERNAL}


def _lines(path: str, value: Any) -> Iterator[str]:
    if inspect.isclass(value):
        yield f"class {path}{_signature(value)}"
        for member in sorted(vars_of(value)):
            yield from _member(path, value, member)
    elif callable(value):
        yield f"{path}{_signature(value)}"
    else:
        yield f"{path}: {type(value).__name__}"


def vars_of(kind: type) -> set[str]:
    """Public names that a class has from Luthier: its own, and those of its bases."""
    bases = [base for base in kind.__mro__ if base.__module__.partition(".")[0] == "luthier"]
    return {name for base in bases for name in [*vars(base), *vars(base).get("__annotations__", {})] if name[0] != "_"}


def _member(path: str, kind: type, name: str) -> Iterator[str]:
    value = inspect.getattr_static(kind, name, None)
    if isinstance(value, (classmethod, staticmethod)):
        yield f"    {type(value).__name__} {name}{_signature(value.__func__)}"
    elif isinstance(value, FunctionType):
        yield f"    {name}{_signature(value)}"
    elif isinstance(value, (property, cached_property)):
        function: Any = value.fget if isinstance(value, property) else value.func
        yield f"    {name} -> {_plain(function.__annotations__.get('return', ''))}  (property)"
    else:
        kinds = [base.__annotations__[name] for base in kind.__mro__ if name in vars(base).get("__annotations__", {})]
        yield f"    {name}: {_plain(kinds[0])}" if kinds else f"    {name}"


def _signature(value: Any) -> str:
    """(a: int, b: str = "c") -> d, as it is written."""
    try:
        found = inspect.signature(value)
    except ValueError:  # an exception's, written in C
        return ""
    parts: list[str] = []
    for each in found.parameters.values():
        if each.kind is each.KEYWORD_ONLY and "*" not in parts and not any(part.startswith("*") for part in parts):
            parts.append("*")
        stars = {each.VAR_POSITIONAL: "*", each.VAR_KEYWORD: "**"}.get(each.kind, "")
        kind = f": {_plain(each.annotation)}" if each.annotation is not each.empty else ""
        default = f" = {_plain(each.default, quoted=True)}" if each.default is not each.empty else ""
        parts.append(f"{stars}{each.name}{kind}{default}")
    returned = f" -> {_plain(found.return_annotation)}" if found.return_annotation is not found.empty else ""
    return f"({', '.join(parts)}){returned}"


def _plain(value: Any, *, quoted: bool = False) -> str:
    """An annotation or a default without what changes from run to run."""
    value = getattr(value, "__forward_arg__", value)
    if isinstance(value, str):
        return repr(value) if quoted else value
    return value.__name__ if isinstance(value, (type, FunctionType)) else repr(value)


def command_line() -> str:
    """Each verb with its arguments, options and defaults, as --help shows them."""
    from luthier.cli.main import VERBS

    with _wide():
        verbs = {name: entries for verb in VERBS for name, entries in _verb([verb])}
    lines: list[str] = []
    for name, entries in verbs.items():
        same = next((other for other in verbs if verbs[other] == entries), name)
        lines += ["", name, *([f"    as {same}"] if entries and same != name else entries)]
    return "".join(f"{line}\n" for line in lines[1:])


def _verb(words: list[str]) -> Iterator[tuple[str, list[str]]]:
    """A verb and its options; of one that has others below it, those: `luthier data list`."""
    shown = _help(words)
    below = [match[1] for line in shown if (match := re.match(r"• (\w+)", line))]
    if not below:
        yield f"luthier {' '.join(words)}", [f"    {entry}" for entry in _entries(shown)]
    for word in below:
        yield from _verb([*words, word])


def _entries(shown: list[str]) -> Iterator[str]:
    """`--out PATH = runs/x` for each option, with its choices and its default."""
    entry = ""
    for line in shown:
        start = ENTRY.match(line)
        if start and not line.startswith("-h, "):
            if entry:
                yield entry
            entry = start[1]
        if entry and (end := re.search(r"\((?:default: (.*)|(required))\)$", line)):
            yield f"{entry} (required)" if end[2] else f"{entry} = {end[1]}".removesuffix(" = ")
            entry = ""
    if entry:
        yield entry


def _help(words: list[str]) -> list[str]:
    from luthier.cli.main import main

    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        code = main([*words, "--help"])
    if code != 0:
        raise SystemExit(f"luthier {' '.join(words)} --help ended with {code}")
    return [ESCAPES.sub("", line).strip(FRAME) for line in shown.getvalue().splitlines()]


@contextlib.contextmanager
def _wide() -> Iterator[None]:
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = WIDTH
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


FILES = {"python_names.txt": python_names, "command_line.txt": command_line}


def main() -> None:
    """Print both, or write them."""
    for name, make in FILES.items():
        if "--write" in sys.argv[1:]:
            (FOLDER / name).write_text(make(), encoding="utf-8")
        else:
            sys.stdout.write(make())


if __name__ == "__main__":
    main()
