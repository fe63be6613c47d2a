"""The page of an ablation study, and its data as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from luthier.files.atomic_file import write_file
from luthier.pages.charts import Chart, band, dots, line
from luthier.pages.numbers import perplexity
from luthier.pages.sections import Cell, Section, Table, write_page
from luthier.run.plan import Plan
from luthier.study.results import DATA, Training, gain, spread
from luthier.study.variants import variants

ByVariant = dict[str, list[Training]]


def write(trainings: Sequence[Training], plan: Plan, seeds: int, out: Path) -> None:
    """Write the page, and its data as JSON beside it."""
    record = {"recipe": plan.toml(), "seeds": seeds, "trainings": [asdict(training) for training in trainings]}
    write_file(out.with_suffix(".json"), json.dumps(record, indent=1) + "\n", begins=DATA)
    settings, base = plan.settings, plan.model
    tokens = settings.steps * settings.batch_size * base.context_length
    planned = len(variants()) * seeds
    lead = (
        f"About {trainings[0].parameters:,} parameters and {tokens:,} tokens for each of {len(variants())} variants "
        f"and {seeds} seeds, on {' '.join(plan.data)}"
        + (f"; {len(trainings)} of {planned} trainings done" if len(trainings) < planned else "")
    )
    write_page(out, "From GPT-2 to Llama 4, part by part", lead, sections(trainings, plan))


def sections(trainings: Sequence[Training], plan: Plan) -> list[Section]:
    """The sections of the page."""
    by_variant = {name: [training for training in trainings if training.variant == name] for name in variants()}
    by_variant = {name: found for name, found in by_variant.items() if found}
    settings = plan.settings
    how = (
        f"Every variant has the parts of the one before it and one more. The feed-forward's width is chosen so that "
        f"all have the same number of parameters; with experts, each token uses fewer of them (active). All use the "
        f"same settings: {settings.optimizer} at {settings.learning_rate:g}, {settings.schedule}, "
        f"{settings.batch_size} rows of {plan.model.context_length} tokens a step; no variant was tuned by itself. "
        f"With a seed, all variants see the same batches. A gain is real if it is well over its standard error."
    )
    charts = [curves(by_variant), final_losses(by_variant), gains(by_variant)]
    return [
        Section("The variants", how, tables=[table(by_variant)]),
        Section("Results", charts=charts),
        Section("The numbers", tables=[all_numbers(trainings)], folded_code=("The recipe", plan.toml())),
    ]


def table(by_variant: ByVariant) -> Table:
    """A row for each variant: its size, its loss with the spread over seeds, and the gain of its part."""
    head = ["variant", "loss", "spread (sd)", "gain", "± (se)", "perplexity", "parameters", "active", "hidden_dim"]
    head += ["cache, B/token", "tokens/s"]
    rows: list[list[Cell]] = []
    before: list[Training] = []
    for name, found in by_variant.items():
        first, loss = found[0], statistics.fmean(training.loss for training in found)
        gained, error = gain(before, found)
        rows.append([
            name, *map(rounded, (loss, spread(found), gained, error)), perplexity(loss), first.parameters,
            first.active_parameters, first.hidden_dim, first.cache_bytes,
            statistics.median(training.tokens_per_second for training in found),
        ])  # fmt: skip
        before = found
    return Table(head, rows)


def rounded(value: float | None) -> float | None:
    """Four decimals of a loss: more are noise."""
    return None if value is None else round(value, 4)


def curves(by_variant: ByVariant) -> Chart:
    """Loss over tokens: the mean over seeds, and the range from the lowest to the highest."""
    traces = []
    for tone, (name, found) in enumerate(by_variant.items()):
        tokens = [float(evaluation.tokens) for evaluation in found[0].evaluations]
        columns = list(zip(*([each.loss for each in training.evaluations] for training in found), strict=True))
        if len(found) > 1:
            traces.append(band(tokens, [min(losses) for losses in columns], [max(losses) for losses in columns], tone))
        hover = [f"{name}, step {evaluation.step:,}" for evaluation in found[0].evaluations]
        traces.append(line(name, tokens, [statistics.fmean(losses) for losses in columns], tone, hover))
    caption = "Validation loss: mean over seeds, shaded from the lowest to the highest. Choose variants in the legend."
    return Chart("Loss while training", "tokens seen", "nats per token", traces, caption)


def final_losses(by_variant: ByVariant) -> Chart:
    """The loss at the end, a dot for each seed."""
    traces = [
        dots(
            name,
            [name] * len(found),
            [training.loss for training in found],
            tone,
            [f"seed {training.seed}" for training in found],
        )
        for tone, (name, found) in enumerate(by_variant.items())
    ]
    layout = {"showlegend": False}
    return Chart("Loss at the end", "", "nats per token", traces, "A dot for each seed.", layout=layout)


def gains(by_variant: ByVariant) -> Chart:
    """The gain of each part, with its error."""
    names, values, errors = [], [], []
    before: list[Training] = []
    for name, found in by_variant.items():
        gained, error = gain(before, found)
        before = found
        if gained is not None:
            names.append(name)
            values.append(gained)
            errors.append(2 * (error or 0.0))
    trace = dots("gain", names, values, 0)
    trace["error_y"] = {"type": "data", "array": errors}
    caption = "How much lower the loss is than that of the variant before; bars are two standard errors, seed by seed."
    layout = {"showlegend": False}
    return Chart("Gain of each part", "", "nats per token", [trace] if names else [], caption, layout=layout)


def all_numbers(trainings: Sequence[Training]) -> Table:
    """Every evaluation of every training."""
    rows: list[list[Cell]] = [
        [training.variant, training.seed, evaluation.step, evaluation.tokens, evaluation.loss]
        for training in trainings
        for evaluation in training.evaluations
    ]
    head = ["variant", "seed", "step", "tokens", "validation loss"]
    return Table(head, rows, "Every evaluation as a table", folded=True)
