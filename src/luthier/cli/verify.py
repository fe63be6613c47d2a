"""`luthier verify`: whether a model or a run is what it should be."""

from __future__ import annotations

from dataclasses import dataclass
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
    from luthier.run.verification import verify

    result = verify(given.model, device=given.device, dtype=given.dtype)
    styles = {True: "green", False: "bold red"}
    output_table([
        ((word, styles[check.passed]), name, (figure, "dim" if check.passed else ""))
        for check, (word, name, figure) in zip(result.checks, result.rows(), strict=True)
    ])  # fmt: skip
    output(result.summary)
    return 0 if result.passed else 1
