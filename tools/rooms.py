"""The map of packages: floors from import-linter's contract in pyproject.toml, each with its docstring's first line.

    python tools/rooms.py           # print the table
    python tools/rooms.py --write   # renew it in CONTRIBUTING.md

The contract is the only list. A test fails when CONTRIBUTING.md has another table.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "luthier"
PAGE = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- rooms: python tools/rooms.py --write -->\n", "<!-- end of rooms -->\n"


def floors() -> list[tuple[int, str]]:
    """(floor, package or module) from the top floor to 0. Packages of one floor do not import each other."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    return [
        (len(layers) - 1 - index, name.strip())
        for index, layer in enumerate(layers)
        for name in layer.replace(":", "|").split("|")
    ]


def source(name: str) -> Path:
    """The file that holds the docstring of a package or module."""
    package = PACKAGE / name / "__init__.py"
    return package if package.exists() else PACKAGE / f"{name}.py"


def subject(name: str) -> str:
    """The first line of the docstring of a package or module; empty where it has none."""
    docstring = ast.get_docstring(ast.parse(source(name).read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


def table() -> str:
    """The map in Markdown."""
    rows = [f"| {floor} | `{name}{'' if is_module(name) else '/'}` | {subject(name)} |\n" for floor, name in floors()]
    return "".join(["| floor | room | what it knows |\n", "|---|---|---|\n", *rows])


def is_module(name: str) -> bool:
    """Whether a room is one file."""
    return source(name).name != "__init__.py"


def in_page(page: str) -> str:
    """The table that a page holds between its two marks. Raises a ValueError where a mark is missing."""
    _, begin, rest = page.partition(BEGIN)
    found, end, _ = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} has no {BEGIN.strip()} ... {END.strip()}")
    return found


def main() -> None:
    """Print the table, or write it into CONTRIBUTING.md."""
    if "--write" in sys.argv[1:]:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(page.replace(BEGIN + in_page(page) + END, BEGIN + table() + END), encoding="utf-8")
    else:
        sys.stdout.write(table())


if __name__ == "__main__":
    main()
