"""The page of an ablation study, and its data as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.files.atomic_file import write_file
from luthier.pages.charts import Chart, band, dots, line
from luthier.pages.sections import Cell, Section, Table, write_page
from luthier.study.results import DATA, Training, gains, mean_and_error, verdict

if TYPE_CHECKING:
    from luthier.study.ablation import Study

ByVariant = dict[str, list[Training]]


def write(trainings: Sequence[Training], study: Study, out: Path) -> None:
    """Write the page, and its data as JSON beside it."""
    record = {"study": study.title, "trainings": [asdict(training) for training in trainings]}
    write_file(out.with_suffix(".json"), json.dumps(record, indent=1) + "\n", begins=DATA)
    planned = len(study.variants) * study.seeds
    tokens = f"{trainings[0].evaluations[-1].tokens:,} tokens"
    same = {
        "parameters": f"about {trainings[0].parameters:,} parameters and {tokens}",
        "tokens": tokens,
        "flops": f"about {trainings[0].flops:.2g} FLOPs of training",
    }[study.budget]
    lead = f"{len(study.variants)} variants, {study.seeds} seeds, {same} each, on {' '.join(study.data)}" + (
        f"; {len(trainings)} of {planned} trainings done" if len(trainings) < planned else ""
    )
    write_page(out, study.title, lead, sections(trainings, study))


def grouped(trainings: Sequence[Training], study: Study) -> ByVariant:
    """Trainings by variant, in the order of the study."""
    found = {
        each.name: [each_one for each_one in trainings if each_one.variant == each.name] for each in study.variants
    }
    return {name: done for name, done in found.items() if done}


def sections(trainings: Sequence[Training], study: Study) -> list[Section]:
    """The sections of the page."""
    by_variant = grouped(trainings, study)
    charts = [curves(by_variant), final_losses(by_variant), gains_chart(by_variant)]
    return [
        Section("The variants", how(study), tables=[table(trainings, study)]),
        Section("Results", charts=[chart for chart in charts if chart.traces]),
        Section("The numbers", tables=[all_numbers(trainings)]),
    ]


def how(study: Study) -> str:
    """What is the same for all variants, and what the columns say."""
    context = study.variants[0].config.context_length
    rates = ", ".join(f"{rate:g}" for rate in study.learning_rates)
    own = [f"{each.name} {each.learning_rate:g}" for each in study.variants if each.learning_rate is not None]
    if len(study.learning_rates) > 1:
        rate = f"Of the learning rates {rates}, each variant has the one with the lowest validation loss with seed 1"
    else:
        rate = f"All variants have the learning rate {rates}, which was not tuned for any of them"
    rate += f"; own ones: {', '.join(own)}. " if own else ". "
    sized = {
        "parameters": "The feed-forward's width is chosen so that all variants have the same number of parameters "
        "(with experts, a token uses fewer of them: active). ",
        "tokens": "Each variant has its own width, and so its own number of parameters. ",
        "flops": "Each variant has its own width, and as many steps as cost what the base's cost. ",
    }[study.budget]
    text = f"{sized}{rate}AdamW, cosine schedule, {study.batch_size} rows of {context} tokens a step, float32. "
    if study.seeds == 1:
        return text + "There is one seed: nothing can be said of whether a difference is more than chance. "
    return (
        f"{text}Losses are mean ± standard error over seeds. With a seed, all variants see the same batches: gains are "
        "taken seed by seed, and are 'better' or 'worse' where a paired t test differs from 0 at 5%, else 'no "
        "difference'. Of twenty comparisons without any difference, one will differ by chance."
    )


def table(trainings: Sequence[Training], study: Study) -> Table:
    """A row for each variant. Columns that hold nothing, or the same in every row, are left out."""
    by_variant = grouped(trainings, study)
    base = by_variant.get(study.variants[0].name, [])
    on_way = any(each.before not in (None, study.variants[0].name) for each in study.variants)
    head = ["variant", "loss", "± (se)", "gain over base", "± (se)", "against base"]
    head += ["gain over the one before", "± (se)", "against it"] if on_way else []
    optional = ["learning rate", "parameters", "active", "steps", "FLOPs", "cache, B/token", "tokens/s"]
    rows: list[list[Cell]] = []
    for variant in study.variants:
        found = by_variant.get(variant.name)
        if not found:
            continue
        row: list[Cell] = [variant.name, *map(rounded, mean_and_error([each.loss for each in found]))]
        others = [base, by_variant.get(variant.before or "", [])] if on_way else [base]
        for before in others:
            values = [] if found is base else gains(before, found)
            row += [*map(rounded, mean_and_error(values)), verdict(values)]
        one = found[0]
        speed = round(statistics.median(each.tokens_per_second for each in found))
        active = None if one.active_parameters == one.parameters else one.active_parameters
        row += [one.learning_rate, one.parameters, active, one.evaluations[-1].step, float(f"{one.flops:.3g}")]
        rows.append([*row, one.cache_bytes, speed])
    head += optional
    kept = [
        number
        for number, name in enumerate(head)
        if any(row[number] not in (None, "") for row in rows)
        and not (name in ("learning rate", "steps") and len({row[number] for row in rows}) == 1)
    ]
    return Table([head[number] for number in kept], [[row[number] for number in kept] for row in rows])


def rounded(value: float | None) -> float | None:
    """Four decimals of a loss: more are noise."""
    return None if value is None else round(value, 4)


def curves(by_variant: ByVariant) -> Chart:
    """Loss over tokens: the mean over seeds, and the range from the lowest to the highest."""
    traces = []
    for tone, (name, found) in enumerate(by_variant.items()):
        tokens = [float(evaluation.tokens) for evaluation in found[0].evaluations]
        columns = list(zip(*([each.loss for each in training.evaluations] for training in found), strict=False))
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


def gains_chart(by_variant: ByVariant) -> Chart:
    """The gain over the base, with its error."""
    names, values, errors = [], [], []
    base = next(iter(by_variant.values()), [])
    for name, found in by_variant.items():
        gained, error = mean_and_error([] if found is base else gains(base, found))
        if gained is not None:
            names.append(name)
            values.append(gained)
            errors.append(error or 0.0)
    trace = dots("gain", names, values, 0)
    trace["error_y"] = {"type": "data", "array": errors}
    caption = "How much lower the loss is than the base's; bars are one standard error over seeds, paired by seed."
    layout = {"showlegend": False}
    return Chart("Gain over the base", "", "nats per token", [trace] if names else [], caption, layout=layout)


def all_numbers(trainings: Sequence[Training]) -> Table:
    """Every evaluation of every training."""
    rows: list[list[Cell]] = [
        [training.variant, training.seed, evaluation.step, evaluation.tokens, evaluation.loss]
        for training in trainings
        for evaluation in training.evaluations
    ]
    head = ["variant", "seed", "step", "tokens", "validation loss"]
    return Table(head, rows, "Every evaluation as a table", folded=True)
