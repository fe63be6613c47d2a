"""The page of a run: what was trained on what, how it went, what it said, and how to go on."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from luthier.architectures import registry
from luthier.run.closing import rows_by_epoch
from luthier.run.page import Cell, Chart, Sample, Section, Table, heatmap, line, write_page
from luthier.run.pictures import perplexity
from luthier.run.record import Record, loads_of, number, read
from luthier.terminal.durations import duration
from luthier.terminal.numbers import readable

REPORT = "report.html"
WAVERS = "exp(loss): how many tokens the model wavers between."
LOAD = "load, mean = 1"
MEDIAN = "the median since the look before."


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the page of a run, into its folder unless `out` says where else. Returns the page."""
    run = read(folder)
    done = int(run.looks[-1]["step"]) if run.looks else 0
    state = "finished" if 0 < run.total_steps <= done else "under way, or stopped"
    lead = f"{run.plan.name}, {state}: step {done:,} of {run.total_steps:,}"
    sections = [about(run), *curves(run), by_epoch(run), said(run), go_on(run), recipe_and_data(run)]
    return write_page(out or folder / REPORT, f"Run {run.name}", lead, sections)


def about(run: Record) -> Section:
    """What was trained, on what, how well, and at what cost."""
    settings, config = run.plan.settings, run.plan.model
    total, active = registry.count_parameters(config)
    best = run.best
    facts = [
        ("model", f"{run.plan.name}, {registry.name_of(config)}"),
        ("parameters", f"{total:,}" + (f", {active:,} active" if active != total else "")),
        (
            "shape",
            f"{config.n_layers} layers, dim {config.dim}, {config.n_heads} heads, context {config.context_length:,}",
        ),
        ("data", " ".join(run.plan.data)),
        ("vocabulary", f"{config.vocab_size:,} tokens, {settings.tokenizer}"),
    ]
    for split, entry in run.splits.items():
        held = f"{entry['tokens']:,} tokens, {entry['bytes']:,} bytes, documents: {entry['documents']:,}"
        facts.append((f"{split} text", held))
    batch = settings.batch_size * settings.accumulation * config.context_length
    facts.append(("optimizer", f"{settings.optimizer}, learning rate {settings.learning_rate:g}, {settings.schedule}"))
    facts.append(("a step", f"{batch:,} tokens, products in {settings.precision}"))
    if best is not None:
        loss = float(best[run.judged])
        facts.append((f"best {run.judged.replace('_', ' ')}", f"{loss:.4f} nats a token at step {best['step']:,}"))
        facts.append(("perplexity there", readable(perplexity(loss), 2)))
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
    text = "What the model wrote after the colored words." if samples else "It has not spoken yet."
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
