"""What a person asks a run to be, on the command line or in Python: recipe, preset or model, folder and settings.

The command line needs the answer in two steps: recipe and preset decide the defaults and the model's options, and only
then are the other options read.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.config import check_table
from luthier.errors import UsageError, setting
from luthier.language_model import LanguageModel
from luthier.run.plan import Plan, read_recipe, read_run, resolve
from luthier.run.starting_weights import open_source, run_name
from luthier.tokenizers.core.tokenizer import Tokenizer
from luthier.training.old_names import with_new_names
from luthier.training.settings import Settings

RUNS = Path("runs")
Data = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]  # one file, folder, glob or corpus, or several


@dataclass(frozen=True)
class Basis:
    """What decides the defaults of a run: a recipe's table, what replaces parts of it, and the model to go on with."""

    table: Mapping[str, Any]
    named: Mapping[str, Any]  # of preset, from_model and tokenizer those that are given
    where: str  # names the recipe in errors
    out: Path
    resume: bool
    source: LanguageModel | None

    @property
    def tokenizer(self) -> Tokenizer | None:
        """That of the model to go on with, if any."""
        return None if self.source is None else self.source.tokenizer

    def plan(
        self,
        data: tuple[str, ...] = (),
        options: Mapping[str, Any] | None = None,
        model: Mapping[str, Any] | None = None,
    ) -> Plan:
        """The plan with these data, settings and fields of the model's Config. A UsageError for one that is wrong."""
        shape = None if self.source is None else self.source.config
        plan = resolve(data, self.table, {**self.named, **(options or {})}, model, self.where, shape)
        check_names((*plan.data, *vars(plan.settings).values()))
        return plan


def basis(
    *,
    recipe: str | None = None,
    out: Path | None = None,
    resume: bool = False,
    anyway: bool = False,
    preset: str | None = None,
    from_model: str | None = None,
    tokenizer: str | None = None,
    steps: object = None,
    epochs: object = None,
) -> Basis:
    """Read the recipe, or the folder of a run that is resumed, and open the model of from_model. None: not given.

    Raises a UsageError for what does not go together.
    """
    again = setting("resume", True)
    if resume and recipe:
        raise UsageError(
            f"{again} goes on with the recipe of the run: leave {setting('recipe')} out, and give what is to change"
        )
    if anyway and not resume:
        raise UsageError(f"{setting('anyway', True)} is for {again}: a new run has nothing that it could differ from")
    if resume and from_model:
        raise UsageError(
            f"{setting('from_model')} begins a run with a model's weights, and {again} goes on with a run: "
            "leave one out"
        )
    folder = out or RUNS / default_name(recipe, from_model, preset)
    table, where = {}, "the settings"
    if resume:
        table, where = read_run(folder), str(folder)
    elif recipe:
        table, where = read_recipe(recipe), recipe
    if steps:  # how the run is asked to end replaces how the recipe ends it
        table.pop("epochs", None)
    if epochs:
        table.pop("steps", None)
    # what the model of from_model decides is refused beside it, be it the default
    named = {"preset": preset, "from_model": from_model, "tokenizer": tokenizer if from_model else None}
    source = None if resume else from_model or table.get("from_model")
    opened = open_source(str(source)) if source else None
    return Basis(table, {name: value for name, value in named.items() if value}, where, folder, resume, opened)


def default_name(recipe: str | None, from_model: str | None, preset: str | None) -> str:
    """The name of a run's folder, unless another is given."""
    if from_model:
        return run_name(from_model)
    return Path(recipe).stem if recipe else preset or Settings.preset


def names_of(data: Data) -> tuple[str, ...]:
    """The names of texts, one or several, as strings."""
    return (os.fspath(data),) if isinstance(data, (str, os.PathLike)) else tuple(os.fspath(each) for each in data)


def basis_of(given: Mapping[str, Any], recipe: str | os.PathLike[str] | None, **how: Any) -> Basis:
    """The basis of what a program asks for. given: settings; how: out, resume and anyway of `basis`."""
    named: dict[str, Any] = {each: given.get(each) for each in ("preset", "from_model", "tokenizer", "steps", "epochs")}
    return basis(recipe=None if recipe is None else os.fspath(recipe), **named, **how)


def given_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that a program gives, without those that are None and with paths as strings.

    Raises a UsageError for one that is unknown, or of another type.
    """
    given = {
        name: os.fspath(value) if isinstance(value, os.PathLike) else value
        for name, value in settings.items()
        if value is not None
    }
    renamed = with_new_names(given)
    check_table(Settings, renamed, "luthier.train")
    return renamed


def check_names(names: Iterable[object]) -> None:
    """A UsageError for a file's name that a recipe cannot hold: recipes are UTF-8."""
    for name in names:
        if not isinstance(name, str):
            continue
        if not name.isascii() and any("\ud800" <= character <= "\udfff" for character in name):
            raise UsageError(f"{name}: no name in {sys.getfilesystemencoding()}, and a recipe holds text: rename it")
