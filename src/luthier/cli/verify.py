"""`luthier verify`: whether a model or a run is what it should be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from luthier.cli.opening import Device, NumberType, Quantize, open_model

ABOUT = """Try the laws of a language model on a model or a run, and check the sums of its files.

    luthier verify runs/book

The exit code is 1 when anything fails.
"""


@dataclass(frozen=True)
class Arguments:
    """What the command line says."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_MODEL")]
    """A training run, or any model that opens."""
    device: Device = "cpu"
    """Where to compute."""
    dtype: NumberType = "float32"
    """Number type to compute in; auto takes that of the model's file. float32 sees the smallest leaks."""
    quantize: Quantize = "no"
    """Try the laws on the model with its matrices in 8 or 4 bits, the rest in bfloat16; on a CPU."""


def main(arguments: list[str]) -> int:
    """Print a table of passes and figures."""
    given = tyro.cli(Arguments, prog="luthier verify", description=ABOUT, args=arguments)
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from luthier.run.verify import verify

    lm = open_model(given.model, given.device, given.dtype if given.quantize == "no" else "auto", given.quantize)
    table = Table(show_header=False, box=None, pad_edge=False)
    failed = 0
    for check in verify(Path(given.model), lm):
        failed += not check.passed
        word = Text("pass", style="green") if check.passed else Text("FAIL", style="bold red")
        table.add_row(word, Text(check.name), Text(check.figure, style="dim" if check.passed else ""))
    console = Console(highlight=False)
    console.print(table)
    console.print("all holds" if not failed else f"{failed} of {table.row_count} checks failed", markup=False)
    return 1 if failed else 0
