"""The command line of a run, for `luthier train` and `luthier plan`: its options are the fields of the settings.

Preset and recipe are read first, because they decide the defaults that --help shows and which options [model] has.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from luthier.architectures.family import Config
from luthier.cli.texts import given_text
from luthier.errors import Interface, UsageError
from luthier.run.changes import anyway_help, resume_help
from luthier.run.plan import Plan, read_recipe, read_run, recipes, resolve
from luthier.training.settings import Settings

if TYPE_CHECKING:
    from luthier.language_model import LanguageModel

OPTIONS = Interface(options=True, model_options=True)  # how messages of these verbs name settings


@dataclass(frozen=True)
class Given:
    """What the command line says."""

    plan: Plan
    out: Path
    resume: bool
    anyway: bool  # with resume: let what changes.ANYWAY lists change too
    data: tuple[str, ...]  # empty when not given
    options: dict[str, Any]  # of Settings, those that differ from preset and recipe
    model: dict[str, Any]  # of the Config, likewise
    source: LanguageModel | None = None  # the model of --from


@dataclass(frozen=True)
class Options(Settings):
    """Settings, with the option that no field can be named by."""

    from_model: Annotated[str, tyro.conf.arg(name="from", metavar="MODEL")] = ""
    """Continued pretraining: begin with the weights, the tokenizer and the shape of this model, anything that opens."""


def parse(verb: str, about: str, arguments: list[str]) -> Given:
    """Read the command line of `luthier VERB`. Wrong options end with a message and exit code 2."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", nargs="?")
    first.add_argument("--from", dest="source", nargs="?")
    first.add_argument("--tokenizer", nargs="?")
    first.add_argument("--recipe", nargs="?")
    first.add_argument("--out", type=Path, nargs="?")
    first.add_argument("--resume", action="store_true")
    first.add_argument("--steps", nargs="?")
    first.add_argument("--epochs", nargs="?")
    known, _ = first.parse_known_args(arguments)
    out = known.out or Path("runs") / default_name(known.recipe, known.source, known.preset)
    recipe, where = {}, "the command line"
    if known.resume and known.recipe:
        raise UsageError("--resume goes on with the recipe of the run: leave --recipe out, and give what is to change")
    if "--anyway" in arguments and not known.resume:
        raise UsageError("--anyway is for --resume: a new run has nothing that it could differ from")
    if known.resume and known.source:
        raise UsageError("--from begins a run with a model's weights, and --resume goes on with a run: leave one out")
    if known.resume:
        recipe, where = read_run(out), str(out)
    elif known.recipe:
        recipe, where = read_recipe(known.recipe), known.recipe
    if known.steps:  # how the command line ends the run replaces how the recipe does
        recipe.pop("epochs", None)
    if known.epochs:
        recipe.pop("steps", None)
    # what the model of --from decides is refused beside it, be it the default
    named = {"preset": known.preset, "from_model": known.source, "tokenizer": known.source and known.tokenizer}
    named = {name: value for name, value in named.items() if value}
    opened = None if known.resume else source_of(known.source or str(recipe.get("from_model", "")))
    shape = None if opened is None else opened.config
    base = resolve(recipe=recipe, options=named, where=where, source=shape)
    parsed = tyro.cli(
        arguments_type(base.model),
        prog=f"luthier {verb}",
        description=about,
        args=arguments,
        default=arguments_type(base.model)(
            data=(), out=out, recipe=known.recipe or "", resume=False, anyway=False,
            settings=Options(**vars(base.settings)), model=base.model,
        ),
        config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagCreatePairsOff),
    )  # fmt: skip
    options = changes(base.settings, parsed.settings)
    model = changes(base.model, parsed.model)
    explicit = {**named, **options}
    if "sample_prompt" in explicit:
        explicit["sample_prompt"] = given_text(explicit["sample_prompt"], "--sample-prompt")
    plan = resolve(parsed.data, recipe, explicit, model, where, shape)
    check_names(plan)
    return Given(plan, parsed.out, parsed.resume, parsed.anyway, parsed.data, explicit, model, opened)


def default_name(recipe: str | None, source: str | None, preset: str | None) -> str:
    """The name of a run's folder in runs/, unless --out names another."""
    if source:
        from luthier.run.starting_weights import run_name

        return run_name(source)
    return Path(recipe).stem if recipe else preset or Settings.preset


def source_of(name: str) -> LanguageModel | None:
    """The model of --from, opened; None where none is named."""
    if not name:
        return None
    from luthier.run.starting_weights import open_source

    return open_source(name)


def check_names(plan: Plan) -> None:
    """A UsageError for a file's name that a recipe cannot hold: recipes are UTF-8."""
    for name in (*plan.data, *(value for value in vars(plan.settings).values() if isinstance(value, str))):
        if not name.isascii() and any("\ud800" <= character <= "\udfff" for character in name):
            raise UsageError(f"{name}: no name in {sys.getfilesystemencoding()}, and a recipe holds text: rename it")


def changes(before: Settings | Config, after: Settings | Config) -> dict[str, Any]:
    """The fields whose values differ."""
    names = [item.name for item in fields(before)]
    return {name: getattr(after, name) for name in names if getattr(after, name) != getattr(before, name)}


def arguments_type(model: Config) -> Any:
    """The dataclass that tyro turns into options: those of the settings plain, those of the model as --model.NAME."""
    shipped = ", ".join(recipes())
    return make_dataclass(
        "Arguments",
        [
            ("data", tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(
                metavar="[DATA ...]", help="Files, folders, globs, a prepared folder, or corpora by name "
                "(luthier data list); python-docs unless given.")]]),
            ("out", Annotated[Path, tyro.conf.arg(help="The run's folder.")]),
            ("recipe", Annotated[str, tyro.conf.arg(help=f"A TOML file of settings, a run's folder, or {shipped}.")]),
            ("resume", tyro.conf.FlagCreatePairsOff[Annotated[bool, tyro.conf.arg(
                help=resume_help())]]),
            ("anyway", tyro.conf.FlagCreatePairsOff[Annotated[bool, tyro.conf.arg(
                help=anyway_help())]]),
            ("settings", tyro.conf.OmitArgPrefixes[Options]),
            ("model", Annotated[type(model), tyro.conf.arg(name="model")]),
        ],
    )  # fmt: skip
