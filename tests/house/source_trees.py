"""Python files as syntax trees, and what they import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src"
BY_NAME = {"import_module", "find_spec", "files", "package_folder"}  # functions that take a module's name


class Import(NamedTuple):
    """module: the full name of what is imported, for `from a import b` once `a` and once `a.b`. late: in a function."""

    module: str
    late: bool


def trees(folder: Path) -> Iterator[tuple[Path, ast.Module]]:
    """Each Python file below a folder, with its tree."""
    for path in sorted(folder.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def module_name(path: Path) -> str:
    """`luthier.model.rope` of src/luthier/model/rope.py; a package's name of its __init__.py."""
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.Module) -> Iterator[Import]:
    """What a file imports when it runs: not what stands under `if TYPE_CHECKING`."""
    waiting: list[tuple[ast.AST, bool]] = [(tree, False)]
    while waiting:
        node, late = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            waiting += [(child, late) for child in node.orelse]
            continue
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield Import(node.module, late)
            yield from (Import(f"{node.module}.{alias.name}", late) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in BY_NAME:
            given = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            yield from (Import(name, True) for name in given[:1] if isinstance(name, str))
        late = late or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        waiting += [(child, late) for child in ast.iter_child_nodes(node)]
