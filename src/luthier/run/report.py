"""The page of a run, and the page that compares several: what was trained on what, how it went, what it said.

A run's folder is read as it stands, so a page can be made while the run goes.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from luthier.architectures import registry
from luthier.data.shards import Index, read_index
from luthier.errors import LuthierError
from luthier.run import corpus
from luthier.run.closing import rows_by_epoch
from luthier.run.folder import RunFolder
from luthier.run.page import Cell, Chart, Sample, Section, Table, heatmap, line, write_page
from luthier.run.pictures import perplexity
from luthier.run.plan import Plan, read_run, resolve
from luthier.run.watch import duration, read_lines
from luthier.training.settings import Settings

REPORT = "report.html"
WAVERS = "exp(loss): how many tokens the model wavers between."
LOAD = "load, mean = 1"
MEDIAN = "the median since the look before."


@dataclass(frozen=True)
class Record:
    """All that a run's folder tells."""

    name: str
    path: Path
    plan: Plan
    looks: list[dict[str, Any]]  # those with a step, an epoch and tokens
    samples: list[dict[str, Any]]
    index: Index | None  # of its tokens; None where they are gone

    @property
    def total_steps(self) -> int:
        """Where the run ends; 0 when that is not to be known before its first step."""
        settings = self.plan.settings
        last = self.looks[-1] if self.looks else {}
        if settings.steps or not last.get("epoch"):
            return settings.steps
        return math.ceil((settings.epochs or 1) * float(last["step"]) / float(last["epoch"]) - 1e-6)

    @property
    def judged(self) -> str:
        """The loss that the best weights are chosen by."""
        return (
            "validation_loss"
            if any(number(look, "validation_loss") is not None for look in self.looks)
            else "train_loss"
        )

    @property
    def best(self) -> dict[str, Any] | None:
        """The look with the lowest loss."""
        seen = [look for look in self.looks if number(look, self.judged) is not None]
        return min(seen, key=lambda look: float(look[self.judged]), default=None)

    def series(self, key: str) -> list[float | None]:
        """A measure at each look."""
        return [number(look, key) for look in self.looks]

    def last(self, key: str) -> float | None:
        """A measure as it was last known."""
        return next((value for value in reversed(self.series(key)) if value is not None), None)


def number(record: dict[str, Any], key: str) -> float | None:
    """A finite number, or None: a file may hold anything."""
    value = record.get(key)
    real = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return value if real else None


def read(path: Path) -> Record:
    """A run's folder. A LuthierError when it is none."""
    folder = RunFolder(path)
    plan = resolve(recipe=read_run(path), where=str(folder.recipe))
    places = ("step", "epoch", "tokens")
    looks = [look for look in records(folder.metrics) if all(number(look, key) is not None for key in places)]
    samples = [sample for sample in records(folder.samples) if number(sample, "step") is not None]
    try:
        index = read_index(corpus.prepared_folder(plan) or folder.tokens)
    except LuthierError:
        index = None
    return Record(path.resolve().name, path, plan, looks, samples, index)


def records(path: Path) -> list[dict[str, Any]]:
    """The records of a .jsonl file that are tables."""
    return [record for record in read_lines(path) if isinstance(record, dict)]


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the page of a run, into its folder unless `out` says where else. Returns the page."""
    run = read(folder)
    done = int(run.looks[-1]["step"]) if run.looks else 0
    state = "finished" if 0 < run.total_steps <= done else "under way, or stopped"
    lead = f"{run.plan.settings.preset}, {state}: step {done:,} of {run.total_steps:,}"
    sections = [about(run), *curves(run), by_epoch(run), said(run), go_on(run), recipe_and_data(run)]
    return write_page(out or folder / REPORT, f"Run {run.name}", lead, sections)


def about(run: Record) -> Section:
    """What was trained, on what, how well, and at what cost."""
    settings, config = run.plan.settings, run.plan.model
    total, active = registry.count_parameters(config)
    best = run.best
    facts = [
        ("model", f"{settings.preset}, {registry.name_of(config)}"),
        ("parameters", f"{total:,}" + (f", {active:,} active" if active != total else "")),
        (
            "shape",
            f"{config.n_layers} layers, dim {config.dim}, {config.n_heads} heads, context {config.context_length:,}",
        ),
        ("data", " ".join(run.plan.data)),
        ("vocabulary", f"{config.vocab_size:,} tokens, {settings.tokenizer}"),
    ]
    for split, entry in run.index.splits.items() if run.index is not None else ():
        held = f"{entry['tokens']:,} tokens, {entry['bytes']:,} bytes, documents: {entry['documents']:,}"
        facts.append((f"{split} text", held))
    batch = settings.batch_size * settings.accumulation * config.context_length
    facts.append(("optimizer", f"{settings.optimizer}, learning rate {settings.learning_rate:g}, {settings.schedule}"))
    facts.append(("a step", f"{batch:,} tokens, products in {settings.precision}"))
    if best is not None:
        loss = float(best[run.judged])
        facts.append((f"best {run.judged.replace('_', ' ')}", f"{loss:.4f} nats a token at step {best['step']:,}"))
        facts.append(("perplexity there", f"{perplexity(loss):,.2f}"))
        if (bits := number(best, "bits_per_byte")) is not None:
            facts.append(("bits per byte there", f"{bits:.4f}"))
    if (seconds := run.last("seconds")) is not None:
        facts.append(("time", duration(seconds)))
    if (speed := run.last("tokens_per_second")) is not None:
        share = run.last("peak_share")
        facts.append(
            ("speed at the end", f"{speed:,.0f} tokens/s" + (f", {share:.0%} of the machine's peak" if share else ""))
        )
    if memory := run.last("peak_memory"):
        facts.append(("peak memory", f"{memory / 1e9:.2f} GB"))
    return Section("The run", facts=facts)


def curves(run: Record) -> list[Section]:
    """The charts, and all numbers under them."""
    if not run.looks:
        return [Section("Curves", text="Nothing has been measured yet.")]
    tokens = run.series("tokens")
    hover = [f"step {look['step']:,}, epoch {look['epoch']:.2f}" for look in run.looks]

    def chart(
        title: str, y: str, keys: dict[str, str], caption: str, *, log: bool = False, change: Any = None
    ) -> Chart:
        traces = []
        for tone, (key, name) in enumerate(keys.items()):
            values = [change(v) if change and v is not None else v for v in run.series(key)]
            if any(value is not None for value in values):
                traces.append(line(name, tokens, values, tone, hover))
        from_zero = {} if log else {"yaxis": {"rangemode": "tozero"}}
        return Chart(title, "tokens seen", y, traces, caption, log, from_zero if title == "Speed" else {})

    losses = {"train_loss": "training", "validation_loss": "validation"}
    charts = [
        chart("Loss", "nats a token", losses, "Where the lines part, the model begins to learn the text by heart."),
        chart("Perplexity", "perplexity", losses, WAVERS, log=True, change=perplexity),
        chart("Learning rate", "learning rate", {"learning_rate": "learning rate"}, "As the schedule has it."),
        chart("Gradient norm", "2-norm", {"gradient_norm": "gradient norm"}, f"Before clipping; {MEDIAN}", log=True),
        chart("Speed", "tokens/s", {"tokens_per_second": "tokens/s"}, f"Of training steps alone; {MEDIAN}"),
        chart("Bits per byte", "bits", {"bits_per_byte": "bits per byte"}, "Comparable between tokenizers."),
    ]
    charts = [item for item in charts if item.traces]
    sections = [Section("Curves", charts=charts, tables=[table_of_looks(run)])]
    return sections + expert_load(run)


def table_of_looks(run: Record) -> Table:
    """Every number that was measured."""
    keys = [
        key
        for key in dict.fromkeys(k for look in run.looks for k in look)
        if any(v is not None for v in run.series(key))
    ]
    rows = [[number(look, key) for key in keys] for look in run.looks]
    return Table([key.replace("_", " ") for key in keys], rows, "Every look as a table (metrics.jsonl)", folded=True)


def expert_load(run: Record) -> list[Section]:
    """How even the experts of each mixture layer are used."""
    looks = [(look, loads) for look in run.looks if (loads := loads_of(look))]
    if not looks:
        return []
    n_layers, n_experts = len(looks[-1][1]), len(looks[-1][1][0])
    tokens = [number(look, "tokens") for look, _ in looks]
    busiest = [
        line(f"mixture layer {layer + 1}", tokens, [max(loads[layer]) * len(loads[layer]) for _, loads in looks], layer)
        for layer in range(n_layers)
        if all(layer < len(loads) for _, loads in looks)
    ]
    last = [[share * len(layer) for share in layer] for layer in looks[-1][1]]
    experts, layers = [f"expert {e + 1}" for e in range(n_experts)], [f"layer {n + 1}" for n in range(n_layers)]
    charts = [
        Chart("Busiest expert", "tokens seen", LOAD, busiest, "Its load over the mean: 1 when all are used alike."),
        Chart(
            "Load of each expert at the last look",
            "",
            "",
            [heatmap(last, experts, layers, LOAD)],
            "Tokens that were sent to each expert, over the mean of its mixture layer.",
            layout={"yaxis": {"autorange": "reversed"}},
        ),
    ]
    rows: list[list[Cell]] = [[name, *layer] for name, layer in zip(layers, last, strict=True)]
    return [
        Section("Experts", charts=charts, tables=[Table(["", *experts], rows, "The loads as a table", folded=True)])
    ]


def loads_of(look: dict[str, Any]) -> list[list[float]]:
    """The shares of each expert in each mixture layer, or nothing."""
    loads = look.get("expert_loads")
    shares = isinstance(loads, list) and all(
        isinstance(layer, list) and layer and all(isinstance(share, (int, float)) for share in layer) for layer in loads
    )
    return loads if shares and loads else []


def by_epoch(run: Record) -> Section:
    """The table that a run ends with."""
    keys = ("epoch", "step", "tokens", "train_loss", "validation_loss", "perplexity", "seconds")
    rows = [[number(look, key) for key in keys] for look in rows_by_epoch(run.looks)] if run.looks else []
    return Section("By epoch", tables=[Table([key.replace("_", " ") for key in keys], rows)] if rows else [])


def said(run: Record) -> Section:
    """The samples, in the order of time."""
    samples = []
    for record in run.samples:
        prompt, text = str(record.get("prompt", "")), str(record.get("text", ""))
        epoch = number(record, "epoch")
        place = f"step {record['step']:,}" + (f", epoch {epoch:.2f}" if epoch is not None else "")
        begun = text.startswith(prompt)
        samples.append(Sample(place, prompt if begun else "", text.removeprefix(prompt) if begun else text))
    text = "What the model wrote after the coloured words." if samples else "It has not spoken yet."
    return Section("Samples", text, samples=samples)


def go_on(run: Record) -> Section:
    """What to do next, as commands."""
    place = shlex.quote(str(run.path))
    done = int(run.looks[-1]["step"]) if run.looks else 0
    lines = (
        []
        if not run.looks
        else [f"luthier generate {place} {shlex.quote('Once upon a time')}", f"luthier verify {place}"]
    )
    if done < run.total_steps:
        lines.append(f"luthier train --out {place} --resume")
    elif done:
        lines.append(f"luthier train --out {place} --resume --steps {2 * done}")
        lines.append(f"luthier convert {place} {shlex.quote(run.name + '.gguf')} --to gguf")
    lines.append(f"luthier train --recipe {place} --out {shlex.quote(str(run.path) + '-again')}")
    return Section("How to go on", code="\n".join(lines))


def recipe_and_data(run: Record) -> Section:
    """Every setting."""
    return Section("Settings", "The recipe, with every setting resolved.", folded_code=("run.toml", run.plan.toml()))


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
        run.plan.settings.preset, registry.count_parameters(run.plan.model)[0], run.last("step"), run.last("tokens"),
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
