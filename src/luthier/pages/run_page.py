"""The page of a run: what was trained on what, how it went, samples, and how to go on."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from luthier.pages.charts import Chart, heatmap, line
from luthier.pages.numbers import perplexity
from luthier.pages.run_record import RunRecord, loads_of, number, rows_by_epoch
from luthier.pages.sections import Cell, Sample, Section, Table, write_page
from luthier.terminal.durations import duration
from luthier.terminal.numbers import readable

PERPLEXITY = "exp(loss): roughly how many tokens the model hesitates between."
LOAD = "load, mean = 1"
MEDIAN = "median since the previous evaluation."


def write_run_page(run: RunRecord, out: Path) -> Path:
    """Write the page of a run. Returns its path."""
    state = "finished" if 0 < run.total_steps <= run.steps_done else "under way, or stopped"
    lead = f"{run.preset}, {state}: step {run.steps_done:,} of {run.total_steps:,}"
    recipe = Section("Settings", "The recipe, with every setting resolved.", folded_code=("run.toml", run.recipe))
    sections = [about(run), *curves(run), *expert_loads(run), by_epoch(run), samples(run), how_to_go_on(run), recipe]
    return write_page(out, f"Run {run.name}", lead, sections)


def about(run: RunRecord) -> Section:
    """Model, data, results and cost."""
    return Section("The run", facts=[*setup(run), *results(run), *cost(run)])


def setup(run: RunRecord) -> list[tuple[str, str]]:
    """What was trained, on what, and how."""
    settings, model = run.settings, run.model
    total, active = run.parameters, run.active_parameters
    shape = f"{model['n_layers']} layers, dim {model['dim']}, {model['n_heads']} heads"
    facts = [
        ("model", f"{run.preset}, {run.family}"),
        ("parameters", f"{total:,}" + (f", {active:,} active" if active != total else "")),
        ("shape", f"{shape}, context {model['context_length']:,}"),
        ("data", " ".join(run.data)),
        ("vocabulary", f"{model['vocab_size']:,} tokens, {settings['tokenizer']}"),
    ]
    for split, entry in run.splits.items():
        size = f"{entry['tokens']:,} tokens, {entry['bytes']:,} bytes, documents: {entry['documents']:,}"
        facts.append((f"{split} text", size))
    rate = f"learning rate {settings['learning_rate']:g}, {settings['schedule']}"
    batch = settings["batch_size"] * settings["gradient_accumulation_steps"] * model["context_length"]
    facts.append(("optimizer", f"{settings['optimizer']}, {rate}"))
    facts.append(("a step", f"{batch:,} tokens, products in {settings['precision']}"))
    return facts


def results(run: RunRecord) -> list[tuple[str, str]]:
    """The best loss, and what it means."""
    best = run.best
    if best is None:
        return []
    loss, bits = float(best[run.judged]), number(best, "bits_per_byte")
    facts = [
        (f"best {run.judged.replace('_', ' ')}", f"{loss:.4f} nats per token at step {best['step']:,}"),
        ("perplexity there", readable(perplexity(loss), 2)),
    ]
    return facts if bits is None else [*facts, ("bits per byte there", f"{bits:.4f}")]


def cost(run: RunRecord) -> list[tuple[str, str]]:
    """Time, speed and memory."""
    facts = []
    if (seconds := run.last("seconds")) is not None:
        facts.append(("time", duration(seconds)))
    if (speed := run.last("tokens_per_second")) is not None:
        share = run.last("peak_share")
        of_peak = f", {share:.0%} of the machine's peak" if share else ""
        facts.append(("speed at the end", f"{speed:,.0f} tokens/s{of_peak}"))
    if memory := run.last("peak_memory"):
        facts.append(("peak memory", f"{memory / 1e9:.2f} GB"))
    return facts


def curves(run: RunRecord) -> list[Section]:
    """The charts, and all numbers under them."""
    if not run.evaluations:
        return [Section("Curves", text="Nothing has been measured yet.")]
    losses = {"train_loss": "training", "validation_loss": "validation"}
    found = [
        chart(run, "Loss", "nats per token", losses, "Where the curves diverge, the model begins to overfit."),
        chart(run, "Perplexity", "perplexity", losses, PERPLEXITY, log=True, change=perplexity),
        chart(run, "Learning rate", "learning rate", {"learning_rate": "learning rate"}, "As the schedule has it."),
        chart(run, "Gradient norm", "2-norm", {"gradient_norm": "gradient norm"}, f"Unclipped; {MEDIAN}", log=True),
        chart(run, "Speed", "tokens/s", {"tokens_per_second": "tokens/s"}, f"Of training steps alone; {MEDIAN}"),
        chart(run, "Bits per byte", "bits", {"bits_per_byte": "bits per byte"}, "Comparable between tokenizers."),
    ]
    return [Section("Curves", charts=[item for item in found if item.traces], tables=[all_evaluations(run)])]


def chart(
    run: RunRecord,
    title: str,
    y: str,
    keys: dict[str, str],
    caption: str,
    *,
    log: bool = False,
    change: Callable[[float], float] | None = None,
) -> Chart:
    """Measures over tokens. keys: measure and name of each curve. change: of each value."""
    hover = [f"step {each['step']:,}, epoch {each['epoch']:.2f}" for each in run.evaluations]
    traces = []
    for tone, (key, name) in enumerate(keys.items()):
        values = [change(value) if change and value is not None else value for value in run.series(key)]
        if any(value is not None for value in values):
            traces.append(line(name, run.series("tokens"), values, tone, hover))
    layout: dict[str, Any] = {"yaxis": {"rangemode": "tozero"}} if title == "Speed" else {}
    return Chart(title, "tokens seen", y, traces, caption, log, layout)


def all_evaluations(run: RunRecord) -> Table:
    """Every number that was measured."""
    keys = [
        key
        for key in dict.fromkeys(key for each in run.evaluations for key in each)
        if any(value is not None for value in run.series(key))
    ]
    rows = [[number(each, key) for key in keys] for each in run.evaluations]
    title = "Every evaluation as a table (metrics.jsonl)"
    return Table([key.replace("_", " ") for key in keys], rows, title, folded=True)


def expert_loads(run: RunRecord) -> list[Section]:
    """Load balance of the experts of each mixture layer."""
    evaluations = [(each, loads) for each in run.evaluations if (loads := loads_of(each))]
    if not evaluations:
        return []
    n_layers, n_experts = len(evaluations[-1][1]), len(evaluations[-1][1][0])
    tokens = [number(each, "tokens") for each, _ in evaluations]
    busiest = [
        line(
            f"mixture layer {layer + 1}", tokens,
            [max(loads[layer]) * len(loads[layer]) for _, loads in evaluations], layer,
        )
        for layer in range(n_layers)
        if all(layer < len(loads) for _, loads in evaluations)
    ]  # fmt: skip
    last = [[share * len(layer) for share in layer] for layer in evaluations[-1][1]]
    experts, layers = [f"expert {e + 1}" for e in range(n_experts)], [f"layer {n + 1}" for n in range(n_layers)]
    charts = [
        Chart("Busiest expert", "tokens seen", LOAD, busiest, "Its load over the mean: 1 if all are used alike."),
        Chart(
            "Expert load at the last evaluation",
            "",
            "",
            [heatmap(last, experts, layers, LOAD)],
            "Tokens that were routed to each expert, over the mean of its mixture layer.",
            layout={"yaxis": {"autorange": "reversed"}},
        ),
    ]
    rows: list[list[Cell]] = [[name, *layer] for name, layer in zip(layers, last, strict=True)]
    table = Table(["", *experts], rows, "The loads as a table", folded=True)
    return [Section("Experts", charts=charts, tables=[table])]


def by_epoch(run: RunRecord) -> Section:
    """The table that a run ends with."""
    keys = ("epoch", "step", "tokens", "train_loss", "validation_loss", "perplexity", "seconds")
    found = rows_by_epoch(run.evaluations) if run.evaluations else []
    rows = [[number(each, key) for key in keys] for each in found]
    return Section("By epoch", tables=[Table([key.replace("_", " ") for key in keys], rows)] if rows else [])


def samples(run: RunRecord) -> Section:
    """Generated texts, in the order of time."""
    found = [sample(record) for record in run.samples]
    text = "What the model generated after the colored words." if found else "No samples yet."
    return Section("Samples", text, samples=found)


def sample(record: dict[str, Any]) -> Sample:
    """A record of samples.jsonl. The prompt is shown apart where the text begins with it."""
    prompt, text = str(record.get("prompt", "")), str(record.get("text", ""))
    epoch = number(record, "epoch")
    place = f"step {record['step']:,}" + (f", epoch {epoch:.2f}" if epoch is not None else "")
    begun = text.startswith(prompt)
    return Sample(place, prompt if begun else "", text.removeprefix(prompt) if begun else text)


def how_to_go_on(run: RunRecord) -> Section:
    """What to do next, as commands."""
    place, done, lines = shlex.quote(str(run.path)), run.steps_done, []
    if run.evaluations:
        lines += [f"luthier generate {place} {shlex.quote('Once upon a time')}", f"luthier verify {place}"]
    if done < run.total_steps:
        lines.append(f"luthier train --out {place} --resume")
    elif done:
        lines.append(f"luthier train --out {place} --resume --steps {2 * done}")
        lines.append(f"luthier convert {place} {shlex.quote(run.name + '.gguf')} --to gguf")
    lines.append(f"luthier train --recipe {place} --out {shlex.quote(str(run.path) + '-again')}")
    return Section("How to go on", code="\n".join(lines))
