"""docs/python.md names every public function and every verb, and its code runs."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import luthier
from luthier.cli.main import VERBS

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_verb_is_in_the_table():
    first_words = {line.split("`")[1].split()[0] for line in PAGE.splitlines() if line.startswith("| `")}
    assert first_words == set(VERBS)


def test_every_public_function_is_on_the_page():
    names = {name for name in luthier.__all__ if not name.startswith("_")}
    functions = {name for name in names if not isinstance(getattr(luthier, name), ModuleType)}
    lacking = [name for name in sorted(functions) if f"luthier.{name}" not in PAGE and f"`{name}`" not in PAGE]
    assert lacking == []


def test_what_the_page_names_is_there():
    for path in set(re.findall(r"luthier((?:\.[a-z_]+)+)\b", PAGE, re.IGNORECASE)):
        value: object = luthier
        for name in path[1:].split("."):
            if name == "md":
                break
            value = getattr(value, name)


def test_the_code_of_the_page_runs(place, capsys):
    names: dict[str, object] = {}
    for block in BLOCK.findall(PAGE):
        exec(block, names)
    assert Path("curves.png").exists()
    assert names["more"].plan.settings.from_model == "runs/llama-nano"
    assert luthier.open_run("runs/llama-nano").metrics[-1]["step"] == 30
