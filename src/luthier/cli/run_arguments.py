"""The command line of a run, for `luthier train` and `luthier plan`: its options are the fields of the settings.

Preset and recipe are read first, because they decide the defaults that --help shows and which options [model] has.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from luthier.architectures.family import Config
from luthier.cli.texts import given_text
from luthier.errors import Interface
from luthier.run.changes import anyway_help, resume_help
from luthier.run.plan import Plan, recipes
from luthier.run.request import Basis, basis
from luthier.training.old_names import with_new_options
from luthier.training.settings import Settings

OPTIONS = Interface(options=True, model_options=True)  # how messages of these verbs name settings


@dataclass(frozen=True)
class Given:
    """What the command line says."""

    asked: Basis
    data: tuple[str, ...]  # empty when not given
    options: dict[str, Any]  # of Settings, those that differ from preset and recipe
    model: dict[str, Any]  # of the Config, likewise
    anyway: bool  # with resume: let what changes.ANYWAY lists change too

    @property
    def plan(self) -> Plan:
        """The plan that is asked for."""
        return self.asked.plan(self.data, self.options, self.model)


@dataclass(frozen=True)
class Options(Settings):
    """Settings, with the option that no field can be named by."""

    from_model: Annotated[str, tyro.conf.arg(name="from", metavar="MODEL")] = ""
    """Continued pretraining: begin with the weights, the tokenizer and the shape of this model, anything that opens."""


def parse(verb: str, about: str, arguments: list[str]) -> Given:
    """Read the command line of `luthier VERB`. Wrong options end with a message and exit code 2."""
    arguments = with_new_options(arguments)
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
    asked = basis(
        recipe=known.recipe, out=known.out, resume=known.resume, anyway="--anyway" in arguments, preset=known.preset,
        from_model=known.source, tokenizer=known.tokenizer, steps=known.steps, epochs=known.epochs,
    )  # fmt: skip
    base = asked.plan()
    parsed = tyro.cli(
        arguments_type(base.model),
        prog=f"luthier {verb}",
        description=about,
        args=arguments,
        default=arguments_type(base.model)(
            data=(), out=asked.out, recipe=known.recipe or "", resume=False, anyway=False,
            settings=Options(**vars(base.settings)), model=base.model,
        ),
        config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagCreatePairsOff),
    )  # fmt: skip
    options = changes(base.settings, parsed.settings)
    model = changes(base.model, parsed.model)
    if "sample_prompt" in options:
        options["sample_prompt"] = given_text(options["sample_prompt"], "--sample-prompt")
    return Given(asked, parsed.data, options, model, parsed.anyway)


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
