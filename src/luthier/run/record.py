"""Reading a run's folder: its plan, evaluations and samples.

The folder is read as it stands, so it can be read while the run goes. A file of it may be cut short, or hold anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.architectures import registry
from luthier.config import to_table
from luthier.data.shards import read_index
from luthier.errors import LuthierError
from luthier.pages.run_record import RunRecord, number
from luthier.run import corpus
from luthier.run.folder import RunFolder
from luthier.run.json_lines import read_lines
from luthier.run.plan import Plan, read_run, resolve

COUNTS = ("tokens", "bytes", "documents")


def plan_of(path: Path) -> Plan:
    """Every setting of a run. Raises a LuthierError where the folder is no run."""
    return resolve(recipe=read_run(path), where=str(RunFolder(path).recipe))


def read(path: Path) -> RunRecord:
    """Read a run's folder. Raises a LuthierError where it is no run."""
    folder, plan = RunFolder(path), plan_of(path)
    places = ("step", "epoch", "tokens")
    measured = [each for each in records(folder.metrics) if all(number(each, key) is not None for key in places)]
    samples = [sample for sample in records(folder.samples) if number(sample, "step") is not None]
    try:
        index = read_index(corpus.prepared_folder(plan.data) or folder.tokens)
        splits = {name: {key: int(entry[key]) for key in COUNTS} for name, entry in index.splits.items()}
    except (LuthierError, KeyError, TypeError, ValueError):
        splits = {}
    total, active = registry.count_parameters(plan.model)
    return RunRecord(
        name=path.resolve().name,
        path=path,
        data=plan.data,
        settings=to_table(plan.settings),
        model=to_table(plan.model),
        preset=plan.name,
        family=registry.name_of(plan.model),
        parameters=total,
        active_parameters=active,
        recipe=plan.toml(),
        evaluations=measured,
        samples=samples,
        splits=splits,
    )


def evaluations(path: Path) -> list[dict[str, Any]]:
    """The evaluations of a metrics.jsonl that are whole: place and losses are there, and are numbers."""
    keys = {"step", "epoch", "tokens", "train_loss", "perplexity"}
    held_out = {"validation_loss"}  # not in a run without held-out text
    return [
        found
        for found in records(path)
        if all(number(found, key) is not None for key in keys | held_out & found.keys())
    ]


def records(path: Path) -> list[dict[str, Any]]:
    """The records of a .jsonl file that are tables."""
    return [record for record in read_lines(path) if isinstance(record, dict)]
