"""The page that compares runs: side by side, in the same charts, and by the settings that differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from luthier.pages.charts import Chart, line
from luthier.pages.numbers import perplexity
from luthier.pages.run_page import all_evaluations, sample
from luthier.pages.run_record import RunRecord, number
from luthier.pages.sections import Cell, Sample, Section, Table, write_page

CHARTS = (  # title, x, its label, y (None: the loss), its label
    ("Loss over tokens", "tokens", "tokens seen", None, "nats per token"),
    ("Loss over time", "seconds", "seconds", None, "nats per token"),
    ("Bits per byte", "tokens", "tokens seen", "bits_per_byte", "bits"),
    ("Learning rate", "tokens", "tokens seen", "learning_rate", "learning rate"),
    ("Gradient norm", "tokens", "tokens seen", "gradient_norm", "2-norm"),
    ("Speed", "tokens", "tokens seen", "tokens_per_second", "tokens/s"),
)


def write_comparison_page(runs: Sequence[RunRecord], out: Path) -> Path:
    """Write one page that compares runs. Returns its path."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.path) for run in runs]
    head = ["run", "preset", "parameters", "steps", "tokens", "best loss", "judged by", "perplexity"]
    head += ["bits per byte", "tokens/s", "seconds", "memory, GB"]
    pairs = list(zip(names, runs, strict=True))
    rows = [[name, *summary(run)] for name, run in pairs]
    numbers = [(name, all_evaluations(run)) for name, run in pairs if run.evaluations]
    parts = [
        Section("Side by side", tables=[Table(head, rows)]),
        Section(
            "Curves",
            "Losses compare runs of one tokenizer and one text; bits per byte compare those of one text.",
            charts=shared_charts(names, runs),
        ),
        Section("What differs", "Settings that are not the same in all runs.", tables=[differences(names, runs)]),
        Section("Last samples", samples=[last_sample(name, run) for name, run in pairs if run.samples]),
        Section(
            "The numbers",
            tables=[Table(each.head, each.rows, f"{name}: {each.title}", folded=True) for name, each in numbers],
        ),
    ]
    return write_page(out, f"{len(runs)} runs compared", ", ".join(names), parts)


def summary(run: RunRecord) -> list[Cell]:
    """A run's row of the comparison, without its name."""
    best = run.best
    loss = number(best, run.judged) if best is not None else None
    memory = run.last("peak_memory")
    return [
        run.preset, run.parameters, run.last("step"), run.last("tokens"),
        loss, run.judged.removesuffix("_loss"), perplexity(loss) if loss is not None else None,
        number(best, "bits_per_byte") if best is not None else None,
        run.last("tokens_per_second"), run.last("seconds"), memory / 1e9 if memory else None,
    ]  # fmt: skip


def shared_charts(names: Sequence[str], runs: Sequence[RunRecord]) -> list[Chart]:
    """The same measure of all runs in one chart each."""
    charts = []
    for title, x, x_label, y, y_label in CHARTS:
        traces = []
        for tone, (name, run) in enumerate(zip(names, runs, strict=True)):
            values = run.series(y or run.judged)
            if any(value is not None for value in values):
                hover = [f"step {each['step']:,}" for each in run.evaluations]
                traces.append(line(name, run.series(x), values, tone, hover))
        if traces:
            caption = "Validation loss, or training loss of a run without validation text." if y is None else ""
            charts.append(Chart(title, x_label, y_label, traces, caption, log=y == "gradient_norm"))
    return charts


def differences(names: Sequence[str], runs: Sequence[RunRecord]) -> Table:
    """A row for each setting that differs."""
    tables = [flat(run) for run in runs]
    keys = dict.fromkeys(key for table in tables for key in table)
    rows = [
        [key, *(table.get(key, "–") for table in tables)]
        for key in keys
        if len({table.get(key) for table in tables}) > 1
    ]
    return Table(["setting", *names], rows or [["none", *("" for _ in names)]])


def flat(run: RunRecord) -> dict[str, str]:
    """Every setting by name."""
    settings = {name: str(value) for name, value in run.settings.items()}
    model = {f"model.{name}": str(value) for name, value in run.model.items()}
    return {"data": " ".join(run.data), **settings, **model}


def last_sample(name: str, run: RunRecord) -> Sample:
    """The last sample of a run."""
    last = sample(run.samples[-1])
    return Sample(f"{name}, {last.place}", last.prompt, last.text)
