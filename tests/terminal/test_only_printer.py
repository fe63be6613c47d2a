"""Nothing prints but `luthier.terminal`, whose filter sees all that people see."""

from __future__ import annotations

import ast
from pathlib import Path

import luthier

SOURCE = Path(luthier.__file__).parent
# child processes, whose stdout is a pipe to the process that asks them
PIPES = {"data/encoding_process.py", "tokenizers/core/bpe_training.py", "tokenizers/chat/template_sandbox.py"}


def prints(tree: ast.AST) -> list[int]:
    """The lines that print by themselves."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == "print":
            lines.append(node.lineno)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sys":
            lines += [node.lineno] * (node.attr in ("stdout", "stderr", "__stdout__", "__stderr__"))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rich"):
            lines += [node.lineno for alias in node.names if alias.name in ("Console", "console", "print")]
        if isinstance(node, ast.Import) and any(alias.name in ("rich", "rich.console") for alias in node.names):
            lines.append(node.lineno)
    return lines


def test_nothing_prints_beside_the_terminal_room():
    found = {}
    for path in SOURCE.rglob("*.py"):
        name = path.relative_to(SOURCE).as_posix()
        if not name.startswith("terminal/") and name not in PIPES:
            lines = prints(ast.parse(path.read_text(encoding="utf-8")))
            if lines:
                found[name] = lines
    assert found == {}


def test_the_search_finds_each_way_to_print():
    ways = [
        "print(1)", "f(out=print)", "sys.stdout.write('')", "print('', file=sys.stderr)",
        "from rich.console import Console", "from rich import print", "import rich.console",
    ]  # fmt: skip
    assert all(prints(ast.parse(way)) for way in ways)
    assert prints(ast.parse("from luthier.run.callbacks.console import Console")) == []
