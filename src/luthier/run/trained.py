"""`luthier.train` and `luthier.open_run`: a run in Python, with its model, measurements, curves and page."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.errors import LuthierError
from luthier.language_model import LanguageModel, load
from luthier.pages.run_record import RunRecord
from luthier.run import train as training
from luthier.run.folder import RunFolder
from luthier.run.interrupt import InterruptedRunError
from luthier.run.pictures import losses_figure
from luthier.run.plan import Plan
from luthier.run.record import evaluations, plan_of, read, records
from luthier.run.report import write_report
from luthier.run.request import Basis, Data, basis_of, check_names, given_settings, names_of
from luthier.terminal.tables import html_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


def train(
    data: Data = (),
    *,
    out: str | os.PathLike[str] | None = None,
    recipe: str | os.PathLike[str] | None = None,
    resume: bool = False,
    anyway: bool = False,
    model: Mapping[str, Any] | None = None,
    **settings: Any,
) -> TrainedRun:
    """Train a language model on a text, as `luthier train` does.

        >>> tiny = {"dim": 16, "hidden_dim": 32, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "context_length": 32}
        >>> run = luthier.train("book.txt", out="runs/tiny", model=tiny, vocab_size=300, steps=4, batch_size=2)
        >>> run
        TrainedRun('runs/tiny': llama-nano, ... parameters, step 4 of 4, best validation loss ...)
        >>> run.model.generate("Once", max_new_tokens=5)
        [...]
        >>> luthier.train(out="runs/tiny", resume=True, steps=6).metrics[-1]["step"]
        6

    data: a file, folder, glob, prepared folder or corpus, or a list of them; python-docs unless given. settings: every
    option of `luthier train` by its name in Python, such as `preset="llama-nano"`, `steps=200`, `learning_rate=1e-3`;
    `from_model` is --from. model: fields of the model's Config, as --model.NAME. out: the run's folder; runs/PRESET
    unless given. recipe: a TOML file, a run's folder, or a recipe by name. resume: go on with the run in `out`; anyway:
    let settings change that decide its numbers.

    Progress is printed. Ctrl-C, or a notebook's stop button, ends the step, saves a checkpoint, and raises
    KeyboardInterrupt: the run can be resumed. Raises a UsageError for settings that are wrong, and a LuthierError where
    the text, the folder or the training fails.
    """
    given = given_settings(settings)
    place = None if out is None else Path(out)
    asked = basis_of(given, recipe, out=place, resume=resume, anyway=anyway)
    return carry_out(asked, names_of(data), given, model or {}, anyway=anyway)


def carry_out(
    asked: Basis, data: tuple[str, ...], options: Mapping[str, Any], model: Mapping[str, Any], *, anyway: bool
) -> TrainedRun:
    """Start the run that is asked for, or go on with it. Raises KeyboardInterrupt when it was stopped and saved."""
    try:
        if asked.resume:
            check_names(data)
            training.resume(asked.out, {**asked.named, **options}, dict(model), data, anyway=anyway)
        else:
            training.start(asked.plan(data, options, model), asked.out, asked.source)
    except InterruptedRunError as stopped:
        raise KeyboardInterrupt(str(stopped)) from None
    return TrainedRun(asked.out)


def open_run(folder: str | os.PathLike[str]) -> TrainedRun:
    """Open the folder of a run, finished or not.

        >>> run = luthier.open_run("runs/book")
        >>> run.metrics[-1]["validation_loss"]
        2...

    Raises a LuthierError where the folder is no run.
    """
    run = TrainedRun(Path(folder))
    _ = run.plan
    return run


class Metrics(list[dict[str, Any]]):
    """The measurements of a run, one dict per evaluation: step, epoch, tokens, train_loss, validation_loss, ..."""

    def frame(self) -> DataFrame:
        """As a pandas DataFrame, one row per evaluation. A LuthierError where pandas is not installed."""
        try:
            from pandas import DataFrame
        except ImportError:
            raise LuthierError("pandas is not installed: pip install pandas") from None
        return DataFrame(list(self))


class TrainedRun:
    """A run's folder. It is read when it is asked, so that a run that goes on can be followed.

    folder: where it is. Made by `luthier.train` and `luthier.open_run`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def model(self) -> LanguageModel:
        """The best weights, with the tokenizer. LoadedModel once."""
        return load(self.folder)

    @property
    def metrics(self) -> Metrics:
        """The measurements until now."""
        return Metrics(records(RunFolder(self.folder).metrics))

    @property
    def samples(self) -> list[dict[str, Any]]:
        """The texts that were generated during training: step, epoch, prompt and text."""
        return records(RunFolder(self.folder).samples)

    @property
    def plan(self) -> Plan:
        """Every setting of the run. A LuthierError where the folder is no run."""
        return plan_of(self.folder)

    def plot(self) -> Figure:
        """The curves of loss and perplexity, as a matplotlib figure that belongs to no window.

        >>> luthier.open_run("runs/book").plot().savefig("curves.png")
        """
        return losses_figure(evaluations(RunFolder(self.folder).metrics))

    def report(self, out: str | os.PathLike[str] | None = None) -> Path:
        """Write the page about the run, report.html in its folder unless `out` is given. Returns its path.

        >>> luthier.open_run("runs/book").report("book.html")
        PosixPath('book.html')
        """
        return write_report(self.folder, None if out is None else Path(out))

    def facts(self) -> list[tuple[str, str]]:
        """What a person wants to know first: (name, value) pairs."""
        run = read(self.folder)
        step = f"{run.steps_done:,} of {run.total_steps:,}"
        return [("model", run.preset), ("parameters", f"{run.parameters:,}"), ("step", step), *best_of(run)]

    def __repr__(self) -> str:
        (_, name), (_, parameters), (_, step), *best = self.facts()
        last = "".join(f", {measure} {value}" for measure, value in best)
        return f"TrainedRun({str(self.folder)!r}: {name}, {parameters} parameters, step {step}{last})"

    def _repr_html_(self) -> str:
        return html_table([("run", str(self.folder)), *self.facts()])


def best_of(run: RunRecord) -> list[tuple[str, str]]:
    """The lowest loss and its step, if anything has been measured."""
    if run.best is None:
        return []
    return [(f"best {run.judged.replace('_', ' ')}", f"{float(run.best[run.judged]):.4f} at step {run.best['step']:,}")]
