"""`luthier get`: OpenAI's GPT-2, downloaded from where OpenAI published it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from luthier.terminal.printing import say

ABOUT = """Download a published model.

    luthier get gpt2-124m                   # 0.5 GB, into ./gpt2-124m
    luthier get gpt2-1558m --out models/xl  # 6.2 GB
    luthier generate gpt2-124m "The capital of France is"

A download that was stopped goes on with the file that it was at.
"""


@dataclass(frozen=True)
class Arguments:
    """What the command line says."""

    model: Annotated[
        Literal["gpt2-124m", "gpt2-355m", "gpt2-774m", "gpt2-1558m"],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="MODEL"),
    ]
    """gpt2-124m, gpt2-355m, gpt2-774m or gpt2-1558m."""
    out: Path | None = None
    """The folder to write; of the model's name unless given."""


def main(arguments: list[str]) -> int:
    """Download, check, and say what was written."""
    given = tyro.cli(Arguments, prog="luthier get", description=ABOUT, args=arguments)
    from luthier.model_files.download_gpt2 import download

    out = download(given.model, given.out)
    size = sum(file.stat().st_size for file in out.iterdir())
    say(f"wrote {out} ({size / 1e6:,.1f} MB): luthier generate {out} 'The capital of France is'")
    return 0
