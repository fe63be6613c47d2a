"""An ablation study from GPT-2 to Llama 4: every variant trained alike, with one number of parameters and tokens.

With one seed all variants see the same batches in the same order and are evaluated on the same text, so that a variant
is compared with the one before it seed by seed: the error of a gain is smaller than the spread of the losses.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from luthier.architectures import llama4
from luthier.errors import UsageError, setting
from luthier.files.atomic_file import PAGE, check_writable
from luthier.files.unfinished import scratch_folder
from luthier.run import corpus
from luthier.run.plan import Plan, resolve, with_vocabulary
from luthier.run.token_splits import Split, TokenSplits
from luthier.study.ablation_page import write
from luthier.study.results import DATA, Evaluation, Training
from luthier.study.variants import Shape, budget, build, count, hidden_dim_for, variants
from luthier.terminal.printing import say
from luthier.terminal.streams import outliving_terminal
from luthier.training.loop import Trainer
from luthier.training.machine import choose_device, keep_freed_memory

SIZES = ("nano", "micro", "mini")
EVALUATIONS = 12  # of the validation loss, in a training
EVALUATION_BATCHES = 16


@outliving_terminal()
def run_ablation(
    data: tuple[str, ...],
    out: Path,
    *,
    size: str = "nano",
    seeds: int = 3,
    steps: int = 400,
    batch_size: int = 16,
    learning_rate: float = 2e-3,
    device: str = "auto",
    model: dict[str, Any] | None = None,
    report: Callable[[str], None] = say,
) -> list[Training]:
    """Train every variant with every seed; write the page `out`, and its data beside it as JSON, after each training.

    size: of the presets, "nano", "micro" or "mini". model: fields of GPT-2's Config to change. report: gets a line
    after each training. Raises a UsageError for a setting out of its range.
    """
    if size not in SIZES:
        raise UsageError(f"{setting('size')} is {size}: there are {', '.join(SIZES)}")
    if seeds < 1 or steps < 1:
        raise UsageError(f"{setting('seeds')} is {seeds} and {setting('steps')} is {steps}: both must be at least 1")
    options = {"preset": f"gpt2-{size}", "steps": steps, "batch_size": batch_size, "learning_rate": learning_rate}
    plan = resolve(data, options=options, model={"dropout": 0.0, **(model or {})})
    check_writable(out, begins=PAGE)
    check_writable(out.with_suffix(".json"), begins=DATA)
    keep_freed_memory()
    trainings: list[Training] = []
    planned = len(variants()) * seeds
    with scratch_folder("ladder") as folder:
        vocab_size = plan.model.vocab_size
        tokenizer, tokens = corpus.prepare_tokens(plan.data, plan.settings, vocab_size, folder / "tokens")
        text = TokenSplits(tokens, tokenizer.pad_id or 0)
        if text.validation is None:
            raise UsageError(f"{plan.data[0]} was prepared without validation text: prepare it with some")
        plan = with_vocabulary(plan, tokenizer.vocab_size)
        for seed in range(1, seeds + 1):  # every variant of one seed first: an unfinished page is worth most so
            for name in variants():
                done = train_variant(name, seed, plan, shape_of(plan, size), text, device)
                trainings.append(done)
                place = f"{len(trainings):>{len(str(planned))}}/{planned}"
                report(f"{place}  {name:<10} seed {seed}  loss {done.loss:.4f}  {done.tokens_per_second:,.0f} tokens/s")
                write(trainings, plan, seeds, out)
    return trainings


def shape_of(plan: Plan, size: str) -> Shape:
    """The sizes that all variants share: those of the GPT-2 preset, and the experts of the Llama 4 one."""
    base, n_experts = plan.model, llama4.SIZES[f"llama4-{size}"].n_experts
    return Shape(base.vocab_size, base.context_length, base.dim, base.n_layers, base.n_heads, n_experts=n_experts)


def train_variant(name: str, seed: int, plan: Plan, shape: Shape, text: TokenSplits, device: str) -> Training:
    """Train a variant in float32, with evaluations on the way."""
    parts = variants()[name]
    hidden_dim = hidden_dim_for(parts, shape, budget(shape))
    model = build(parts, shape, hidden_dim, seed, choose_device(device))
    total, active = count(model)
    settings = replace(plan.settings, seed=seed, eval_batches=EVALUATION_BATCHES)
    context = plan.model.context_length
    trainer = Trainer(model, text.training_batches(settings, context), settings, settings.steps)
    validation = text.splits(settings, context)["validation"]

    evaluations, seconds = [evaluate(trainer, validation)], []
    every = max(1, trainer.total_steps // EVALUATIONS)
    while trainer.step < trainer.total_steps:
        seconds.append(trainer.train_step().seconds)
        if trainer.step % every == 0 or trainer.step == trainer.total_steps:
            evaluations.append(evaluate(trainer, validation))
    attention = [block.attention for block in model.layers]
    cache = sum(2 * 4 * layer.n_kv_heads * layer.head_dim for layer in attention)
    speed = trainer.tokens / trainer.step / statistics.median(seconds)
    return Training(name, seed, hidden_dim, total, active, cache, speed, evaluations)


def evaluate(trainer: Trainer, validation: Split) -> Evaluation:
    """Measure the validation loss."""
    return Evaluation(trainer.step, trainer.tokens, trainer.evaluate(validation.batches()))
