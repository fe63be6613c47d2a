"""Messages of a run before its first step and after its last."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luthier.architectures import registry
from luthier.pages.run_record import rows_by_epoch
from luthier.run.folder import RunFolder
from luthier.run.plan import Plan
from luthier.terminal.durations import duration
from luthier.terminal.numbers import readable
from luthier.training.loop import Trainer


def headline(plan: Plan, trainer: Trainer, training_tokens: int, peak: float) -> str:
    """Model, data and steps, in two lines. peak: FLOP/s of the machine's matrix products."""
    settings = plan.settings
    total, active = registry.count_parameters(plan.model)
    active_too = f" ({active:,} active)" if active != total else ""
    batch = settings.batch_size * settings.gradient_accumulation_steps * plan.model.context_length
    return (
        f"{plan.name}: {total:,} parameters{active_too}, {training_tokens:,} training tokens, "
        f"a vocabulary of {plan.model.vocab_size:,}\n"
        f"{trainer.total_steps:,} steps of {batch:,} tokens with {settings.optimizer} in {settings.precision} on "
        f"{trainer.device.type}; peak of its matrix products {peak / 1e9:,.0f} GFLOP/s"
    )


def closing_text(
    folder: RunFolder, evaluations: list[dict[str, Any]], seconds: float, prompt: str, failed: Mapping[Path, str]
) -> str:
    """Table by epoch, paths of the results, and the next command. failed: what could not be written, and why."""
    kind = "validation" if "validation_loss" in evaluations[-1] else "train"
    best = min(evaluations, key=lambda each: float(each[f"{kind}_loss"]))
    run = shlex.quote(str(folder.path))
    pages = [str(page) for page in (folder.picture, folder.report) if page not in failed]
    generate = f"luthier generate {run} {shlex.quote(prompt)}"
    lines = [
        table_by_epoch(evaluations),
        f"done in {duration(seconds)}: best {kind} loss {best[f'{kind}_loss']:.4f} at step {best['step']:,}",
        f"  weights   {folder.path} (the best)",
        f"            {folder.whole_checkpoints()[-1]} (the last)",
        f"  log       {folder.metrics}, {folder.samples}",
        *([f"  picture   {', '.join(pages)}"] if pages else []),
        *(f"  missing   {path.name}: {problem}" for path, problem in failed.items()),
        *([f"            write it with: luthier report {run}"] if folder.report in failed else []),
        f"  generate  {generate}",
    ]
    return "\n".join(lines)


def table_by_epoch(evaluations: list[dict[str, Any]]) -> str:
    """The evaluations nearest to the end of each epoch, as a table."""
    lines = ["epoch     step       tokens    train  validation  perplexity"]
    for row in rows_by_epoch(evaluations):
        validation = row.get("validation_loss")
        shown = f"{validation:>11.4f}" if validation is not None else f"{'-':>11}"
        lines.append(
            f"{row['epoch']:>5.1f} {row['step']:>8} {row['tokens']:>12,} {row['train_loss']:>8.4f} {shown}"
            f" {readable(row['perplexity'], 1):>11}"
        )
    return "\n".join(lines)
