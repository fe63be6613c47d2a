"""`luthier ladder`: another name of `luthier ablate --from gpt2 --to llama4`, with a page where --out says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from luthier.terminal.printing import say

ABOUT = """Train GPT-2 and then, part by part, what leads to Llama 2 and Llama 4, each with as many parameters and
tokens, and with several seeds: `luthier ablate` with these settings. Writes a page with the table, the curves and the
spread, and its data as JSON beside it.

    luthier ladder book.txt --out ladder.html
    luthier ladder python-docs --steps 100 --seeds 1
"""


@dataclass(frozen=True)
class Arguments:
    """What the command line says."""

    data: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[DATA ...]")] = ()
    """Files, folders, globs, a prepared folder, or corpora by name; python-docs unless given."""
    out: Path = Path("ladder.html")
    """The page. It is written anew after each training; beside it lies the study, a folder NAME-study."""
    size: Literal["nano", "micro", "mini"] = "nano"
    """Of the models, as the presets have it."""
    seeds: int = 3
    """Trainings of each variant. The spread over seeds says which gains are real."""
    steps: int = 400
    """Optimizer steps of each training."""
    batch_size: int = 16
    """Rows of a step."""
    learning_rate: float = 2e-3
    """Peak learning rate, of all variants."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train."""
    resume: bool = False
    """Go on with the study of --out."""


def main(arguments: list[str]) -> int:
    """Train the variants."""
    given = tyro.cli(Arguments, prog="luthier ladder", description=ABOUT, args=arguments)
    from luthier.study.ladder import ladder

    ladder(
        given.data, out=given.out, size=given.size, seeds=given.seeds, steps=given.steps, batch_size=given.batch_size,
        learning_rate=given.learning_rate, device=given.device, resume=given.resume,
    )  # fmt: skip
    say(str(given.out))
    return 0
