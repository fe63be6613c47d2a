"""`luthier ablate`: an ablation study of architectures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from luthier.terminal.printing import output_table, say

ABOUT = """Train variants of an architecture alike, with one budget and several seeds, and compare them: the way from
one family to another part by part, parts added to a model or taken away, or the variants of a file. Ctrl-C stops it,
and --resume goes on. Writes a folder with a page, its numbers, and a run for each training.

    luthier ablate book.txt --from gpt2 --to qwen3 --out study
    luthier ablate book.txt --from llama --add qk_norm --remove rope --steps 200
    luthier ablate book.txt --variants variants.toml --budget flops
    luthier ablate --out study --resume
"""


@dataclass(frozen=True)
class Arguments:
    """What the command line says."""

    data: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[DATA ...]")] = ()
    """Files, folders, globs, a prepared folder, or corpora by name; python-docs unless given."""
    base: Annotated[str, tyro.conf.arg(name="from")] = "gpt2"
    """The base: a family or a preset. All variants have its dim, layers, heads and context."""
    to: tuple[str, ...] = ()
    """Families or presets: from the base to each of them one part changes at a time."""
    add: tuple[str, ...] = ()
    """Parts to add to the base, a variant each: qk_norm, rope, swiglu, grouped_queries, window, experts, ..."""
    remove: tuple[str, ...] = ()
    """Parts to take away from the base, a variant each."""
    variants: Path | None = None
    """A TOML file with a table for each variant: preset, add, remove, learning_rate, and fields of the model."""
    budget: Literal["parameters", "tokens", "flops"] = "parameters"
    """The same for all variants: parameters and tokens, tokens alone, or FLOPs of the training."""
    size: Literal["nano", "micro", "mini"] = "nano"
    """Of families, as their presets have it."""
    seeds: int = 3
    """Trainings of each variant. The spread over seeds says which gains are more than chance."""
    steps: int = 400
    """Optimizer steps of each training; with a budget in FLOPs, of the base's."""
    batch_size: int = 16
    """Rows of a step."""
    learning_rate: float = 2e-3
    """Peak learning rate, of all variants."""
    learning_rates: tuple[float, ...] = ()
    """Several instead: each variant has the one with the lowest validation loss with the first seed."""
    eval_batches: int = 16
    """Batches of an evaluation; 0: the whole validation text."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train."""
    threads: int = 0
    """CPU threads; 0: all cores."""
    out: Path = Path("ablation")
    """The study's folder."""
    resume: bool = False
    """Go on with the study in --out. Nothing else is needed: its settings are those it was begun with."""


def main(arguments: list[str]) -> int:
    """Carry the study out, and print its table."""
    given = tyro.cli(
        Arguments, prog="luthier ablate", description=ABOUT, args=arguments, config=(tyro.conf.FlagCreatePairsOff,)
    )
    from luthier.study.ablation import ablate, read_study
    from luthier.study.ablation_page import table

    done = ablate(
        given.data, base=given.base, to=given.to, add=given.add, remove=given.remove, variants=given.variants,
        budget=given.budget, size=given.size, seeds=given.seeds, steps=given.steps, batch_size=given.batch_size,
        learning_rate=given.learning_rate, learning_rates=given.learning_rates, eval_batches=given.eval_batches,
        device=given.device, threads=given.threads, out=given.out, resume=given.resume,
    )  # fmt: skip
    found = table(done, read_study(given.out))
    rows = [["" if cell is None else f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row]
            for row in found.rows]  # fmt: skip
    output_table(rows, list(found.head))
    say(str(given.out / "report.html"))
    return 0
