"""`luthier verify`: whether a model or a run is what it should be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from luthier.terminal.printing import output, output_table

ABOUT = """Try the laws of a language model on a model or a run, and check the sums of its files.

    luthier verify runs/book

The exit code is 1 when anything fails.
"""


@dataclass(frozen=True)
class Arguments:
    """What the command line says."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_MODEL")]
    """A training run, or any model that opens."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "cpu"
    """Where to compute."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """Number type to compute in; auto takes that of the model's file. float32 sees the smallest leaks."""


def main(arguments: list[str]) -> int:
    """Print a table of passes and figures."""
    given = tyro.cli(Arguments, prog="luthier verify", description=ABOUT, args=arguments)
    import torch

    from luthier.language_model import load
    from luthier.run.verify import verify
    from luthier.training.machine import choose_device

    dtype = None if given.dtype == "auto" else getattr(torch, given.dtype)
    lm = load(given.model, device=choose_device(given.device), dtype=dtype)
    checks = list(verify(Path(given.model), lm))
    words = {True: ("pass", "green"), False: ("FAIL", "bold red")}
    rows = [(words[each.passed], each.name, (each.figure, "dim" if each.passed else "")) for each in checks]
    failed = sum(not each.passed for each in checks)
    output_table(rows)
    output("all holds" if not failed else f"{failed} of {len(rows)} checks failed")
    return 1 if failed else 0
