"""The page that compares runs: side by side, in the same charts, and by the settings that differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from luthier.architectures import registry
from luthier.run.page import Cell, Chart, Sample, Section, Table, line, write_page
from luthier.run.pictures import perplexity
from luthier.run.plan import Plan
from luthier.run.record import Record, number, read
from luthier.run.report import said, table_of_looks
from luthier.training.settings import Settings


def write_comparison(folders: Sequence[Path], out: Path) -> Path:
    """Write one page that compares runs. Returns the page."""
    runs = [read(folder) for folder in folders]
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.path) for run in runs]
    head = ["run", "preset", "parameters", "steps", "tokens", "best loss", "judged by", "perplexity"]
    head += ["bits per byte", "tokens/s", "seconds", "memory, GB"]
    rows = [[name, *summary(run)] for name, run in zip(names, runs, strict=True)]
    pairs = list(zip(names, runs, strict=True))
    numbers = [(name, table_of_looks(run)) for name, run in pairs if run.looks]
    parts = [
        Section("Side by side", tables=[Table(head, rows)]),
        Section(
            "Curves",
            "Losses compare runs of one tokenizer and one text; bits per byte compare those of one text.",
            charts=shared_charts(names, runs),
        ),
        Section("What differs", "Settings that are not the same in all runs.", tables=[differences(names, runs)]),
        Section("Last words", samples=[last_words(name, run) for name, run in pairs if run.samples]),
        Section(
            "The numbers",
            tables=[Table(each.head, each.rows, f"{name}: {each.title}", folded=True) for name, each in numbers],
        ),
    ]
    return write_page(out, f"{len(runs)} runs compared", ", ".join(names), parts)


def summary(run: Record) -> list[Cell]:
    """A run's row of the comparison, without its name."""
    best = run.best
    loss = number(best, run.judged) if best is not None else None
    memory = run.last("peak_memory")
    return [
        run.plan.name, registry.count_parameters(run.plan.model)[0], run.last("step"), run.last("tokens"),
        loss, run.judged.removesuffix("_loss"), perplexity(loss) if loss is not None else None,
        number(best, "bits_per_byte") if best is not None else None,
        run.last("tokens_per_second"), run.last("seconds"), memory / 1e9 if memory else None,
    ]  # fmt: skip


def shared_charts(names: list[str], runs: list[Record]) -> list[Chart]:
    """The same measure of all runs in one chart each."""
    wanted = [
        ("Loss over tokens", "tokens", "tokens seen", None, "nats a token"),
        ("Loss over time", "seconds", "seconds", None, "nats a token"),
        ("Bits per byte", "tokens", "tokens seen", "bits_per_byte", "bits"),
        ("Learning rate", "tokens", "tokens seen", "learning_rate", "learning rate"),
        ("Gradient norm", "tokens", "tokens seen", "gradient_norm", "2-norm"),
        ("Speed", "tokens", "tokens seen", "tokens_per_second", "tokens/s"),
    ]
    charts = []
    for title, x, x_label, y, y_label in wanted:
        traces = [
            line(
                name, run.series(x), run.series(y or run.judged), tone, [f"step {look['step']:,}" for look in run.looks]
            )
            for tone, (name, run) in enumerate(zip(names, runs, strict=True))
            if any(value is not None for value in run.series(y or run.judged))
        ]
        if traces:
            caption = "Validation loss, or training loss of a run without validation text." if y is None else ""
            charts.append(Chart(title, x_label, y_label, traces, caption, log=y == "gradient_norm"))
    return charts


def differences(names: list[str], runs: list[Record]) -> Table:
    """The settings that differ, a row each."""
    tables = [flat(run.plan) for run in runs]
    keys = dict.fromkeys(key for table in tables for key in table)
    rows = [
        [key, *(table.get(key, "–") for table in tables)]
        for key in keys
        if len({table.get(key) for table in tables}) > 1
    ]
    return Table(["setting", *names], rows or [["none", *("" for _ in names)]])


def flat(plan: Plan) -> dict[str, str]:
    """Every setting by name."""
    settings = {item.name: str(getattr(plan.settings, item.name)) for item in fields(Settings)}
    model = {f"model.{item.name}": str(getattr(plan.model, item.name)) for item in fields(plan.model)}
    return {"data": " ".join(plan.data), **settings, **model}


def last_words(name: str, run: Record) -> Sample:
    """The last sample of a run."""
    sample = said(run).samples[-1]
    return Sample(f"{name}, {sample.place}", sample.prompt, sample.text)
