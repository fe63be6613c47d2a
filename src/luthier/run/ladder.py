"""The ablation ladder: the rungs from GPT-2 to Llama 4, trained alike, at one budget of parameters and tokens.

With one seed all rungs see the same batches in the same order and are judged on the same text, so that a step from one
rung to the next is compared seed by seed: its error is smaller than the spread of the losses.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from luthier.architectures import llama4
from luthier.data.shards import TokenShards
from luthier.errors import UsageError, setting
from luthier.files.atomic_file import PAGE, check_writable, write_file
from luthier.files.unfinished import scratch_folder
from luthier.run import corpus
from luthier.run.page import Cell, Chart, Section, Table, band, dots, line, write_page
from luthier.run.pictures import perplexity
from luthier.run.plan import Plan, resolve, with_vocabulary
from luthier.run.rungs import Shape, budget, build, count, hidden_dim_for, rungs
from luthier.run.token_splits import TokenSplits
from luthier.terminal.printing import say
from luthier.terminal.streams import outliving_terminal
from luthier.training.loop import Trainer
from luthier.training.machine import choose_device, keep_freed_memory

SIZES = ("nano", "micro", "mini")
LOOKS = 12  # at the validation loss, in a training
JUDGED = 16  # batches of each look
DATA = b'{\n "recipe"'  # how the data beside a page begins


@dataclass(frozen=True)
class Look:
    """A look at the validation loss."""

    step: int
    tokens: int
    loss: float  # nats a token


@dataclass(frozen=True)
class Climb:
    """One rung trained with one seed."""

    rung: str
    seed: int
    hidden_dim: int
    parameters: int
    active_parameters: int
    cache_bytes: int  # of keys and values, a token, in float32
    tokens_per_second: float
    looks: list[Look]

    @property
    def loss(self) -> float:
        """The validation loss at the end."""
        return self.looks[-1].loss


@outliving_terminal()
def climb(
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
    told: Callable[[str], None] = say,
) -> list[Climb]:
    """Train every rung with every seed; write the page `out`, and its data beside it as JSON, after each training.

    size: of the presets, "nano", "micro" or "mini". model: fields of GPT-2's Config to change. told: hears a line after
    each training. Raises a UsageError for a setting out of its range.
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
    climbs: list[Climb] = []
    planned = len(rungs()) * seeds
    with scratch_folder("ladder") as folder:
        tokenizer, tokens = corpus.prepare_tokens(plan.data, plan.settings, plan.model.vocab_size, folder / "tokens")
        text = TokenSplits(tokens, tokenizer.pad_id or 0)
        if text.validation is None:
            raise UsageError(f"{plan.data[0]} was prepared without validation text: prepare it with some")
        plan = with_vocabulary(plan, tokenizer.vocab_size)
        for seed in range(1, seeds + 1):  # the whole ladder for one seed first: an unfinished page is worth most so
            for name in rungs():
                done = one_climb(name, seed, plan, shape_of(plan, size), text, text.validation, device)
                climbs.append(done)
                place = f"{len(climbs):>{len(str(planned))}}/{planned}"
                told(f"{place}  {name:<10} seed {seed}  loss {done.loss:.4f}  {done.tokens_per_second:,.0f} tokens/s")
                write(climbs, plan, seeds, out)
    return climbs


def shape_of(plan: Plan, size: str) -> Shape:
    """The sizes that all rungs share: those of the GPT-2 preset, and the experts of the Llama 4 one."""
    base, n_experts = plan.model, llama4.SIZES[f"llama4-{size}"].n_experts
    return Shape(base.vocab_size, base.context_length, base.dim, base.n_layers, base.n_heads, n_experts=n_experts)


def one_climb(
    name: str, seed: int, plan: Plan, shape: Shape, text: TokenSplits, validation: TokenShards, device: str
) -> Climb:  # fmt: skip
    """Train a rung, in float32, and look at its loss on the way."""
    parts = rungs()[name]
    hidden_dim = hidden_dim_for(parts, shape, budget(shape))
    model = build(parts, shape, hidden_dim, seed, choose_device(device))
    total, active = count(model)
    settings = replace(plan.settings, seed=seed)
    context = plan.model.context_length
    batches = text.training_batches(settings, context)
    trainer = Trainer(model, batches, settings, settings.steps)

    def look() -> Look:
        judged = text.evaluation_batches(validation, settings, context, JUDGED)
        return Look(trainer.step, trainer.tokens, trainer.evaluate(judged))

    looks, seconds = [look()], []
    every = max(1, trainer.total_steps // LOOKS)
    while trainer.step < trainer.total_steps:
        seconds.append(trainer.train_step().seconds)
        if trainer.step % every == 0 or trainer.step == trainer.total_steps:
            looks.append(look())
    attention = [block.attention for block in model.layers]
    cache = sum(2 * 4 * layer.n_kv_heads * layer.head_dim for layer in attention)
    speed = trainer.tokens / trainer.step / statistics.median(seconds)
    return Climb(name, seed, hidden_dim, total, active, cache, speed, looks)


def write(climbs: Sequence[Climb], plan: Plan, seeds: int, out: Path) -> None:
    """The page, and its data as JSON beside it."""
    record = {"recipe": plan.toml(), "seeds": seeds, "climbs": [asdict(climb) for climb in climbs]}
    write_file(out.with_suffix(".json"), json.dumps(record, indent=1) + "\n", begins=DATA)
    settings, base = plan.settings, plan.model
    tokens = settings.steps * settings.batch_size * base.context_length
    planned = len(rungs()) * seeds
    lead = (
        f"About {climbs[0].parameters:,} parameters and {tokens:,} tokens for each of {len(rungs())} rungs and {seeds} "
        f"seeds, on {' '.join(plan.data)}"
        + (f"; {len(climbs)} of {planned} trainings done" if len(climbs) < planned else "")
    )
    write_page(out, "From GPT-2 to Llama 4, part by part", lead, sections(climbs, plan))


def sections(climbs: Sequence[Climb], plan: Plan) -> list[Section]:
    """What the page says."""
    by_rung = {name: [climb for climb in climbs if climb.rung == name] for name in rungs()}
    by_rung = {name: found for name, found in by_rung.items() if found}
    settings = plan.settings
    how = (
        f"Every rung has the parts of the one below and one more. The feed-forward's width is chosen so that all have "
        f"the same number of parameters; with experts, each token meets fewer of them (active). One recipe for all: "
        f"{settings.optimizer} at {settings.learning_rate:g}, {settings.schedule}, {settings.batch_size} rows of "
        f"{plan.model.context_length} tokens a step; no rung was tuned by itself. With a seed, all rungs see the same "
        f"batches. A step is real when its gain is well over its standard error."
    )
    return [
        Section("The rungs", how, tables=[table(by_rung)]),
        Section("The climb", charts=[curves(by_rung), ends(by_rung), steps_up(by_rung)]),
        Section("The numbers", tables=[all_numbers(climbs)], folded_code=("The recipe", plan.toml())),
    ]


def table(by_rung: dict[str, list[Climb]]) -> Table:
    """A row a rung: its size, its loss with the spread over seeds, and what its part brought."""
    head = ["rung", "loss", "spread (sd)", "gain", "± (se)", "perplexity", "parameters", "active", "hidden_dim"]
    head += ["cache, B/token", "tokens/s"]
    rows: list[list[Cell]] = []
    below: list[Climb] = []
    for name, found in by_rung.items():
        first, loss = found[0], statistics.fmean(climb.loss for climb in found)
        gained, error = gain(below, found)
        rows.append([
            name, *map(rounded, (loss, spread(found), gained, error)), perplexity(loss), first.parameters,
            first.active_parameters, first.hidden_dim, first.cache_bytes,
            statistics.median(climb.tokens_per_second for climb in found),
        ])  # fmt: skip
        below = found
    return Table(head, rows)


def rounded(value: float | None) -> float | None:
    """Four decimals of a loss: more are noise."""
    return None if value is None else round(value, 4)


def spread(found: Sequence[Climb]) -> float | None:
    """The standard deviation of the final losses over seeds."""
    return statistics.stdev(climb.loss for climb in found) if len(found) > 1 else None


def gain(below: Sequence[Climb], found: Sequence[Climb]) -> tuple[float | None, float | None]:
    """How much lower the loss is than on the rung below, seed by seed: (mean, standard error), in nats."""
    before = {climb.seed: climb.loss for climb in below}
    steps = [before[climb.seed] - climb.loss for climb in found if climb.seed in before]
    if not steps:
        return None, None
    error = statistics.stdev(steps) / math.sqrt(len(steps)) if len(steps) > 1 else None
    return statistics.fmean(steps), error


def curves(by_rung: dict[str, list[Climb]]) -> Chart:
    """The loss on the way: the mean over seeds, and from the lowest to the highest."""
    traces = []
    for tone, (name, found) in enumerate(by_rung.items()):
        tokens = [float(look.tokens) for look in found[0].looks]
        columns = list(zip(*([look.loss for look in climb.looks] for climb in found), strict=True))
        if len(found) > 1:
            traces.append(band(tokens, [min(losses) for losses in columns], [max(losses) for losses in columns], tone))
        hover = [f"{name}, step {look.step:,}" for look in found[0].looks]
        traces.append(line(name, tokens, [statistics.fmean(losses) for losses in columns], tone, hover))
    caption = "Validation loss: the mean over seeds, shaded from the lowest to the highest. Choose rungs in the legend."
    return Chart("Loss on the way", "tokens seen", "nats a token", traces, caption)


def ends(by_rung: dict[str, list[Climb]]) -> Chart:
    """The loss at the end, a dot a seed."""
    traces = [
        dots(
            name, [name] * len(found), [climb.loss for climb in found], tone, [f"seed {climb.seed}" for climb in found]
        )
        for tone, (name, found) in enumerate(by_rung.items())
    ]
    layout = {"showlegend": False}
    return Chart("Loss at the end", "", "nats a token", traces, "A dot for each seed.", layout=layout)


def steps_up(by_rung: dict[str, list[Climb]]) -> Chart:
    """What each part brought, with its error."""
    names, gains, errors = [], [], []
    below: list[Climb] = []
    for name, found in by_rung.items():
        gained, error = gain(below, found)
        below = found
        if gained is not None:
            names.append(name)
            gains.append(gained)
            errors.append(2 * (error or 0.0))
    trace = dots("gain", names, gains, 0)
    trace["error_y"] = {"type": "data", "array": errors}
    caption = "How much lower the loss is than on the rung below; bars are two standard errors, seed by seed."
    layout = {"showlegend": False}
    return Chart("Gain of each step", "", "nats a token", [trace] if names else [], caption, layout=layout)


def all_numbers(climbs: Sequence[Climb]) -> Table:
    """Every look of every training."""
    rows: list[list[Cell]] = [
        [climb.rung, climb.seed, look.step, look.tokens, look.loss] for climb in climbs for look in climb.looks
    ]
    return Table(["rung", "seed", "step", "tokens", "validation loss"], rows, "Every look as a table", folded=True)
