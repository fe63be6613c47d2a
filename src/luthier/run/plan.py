"""The plan of a run: every setting resolved, from a recipe, a preset and the command line.

A recipe is a TOML file: the fields of training.Settings, `data`, and a table [model] with fields of the architecture's
Config. Each run writes the recipe that it resolved, so a run can be made again from its own folder.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from luthier.architectures import registry
from luthier.architectures.family import Config
from luthier.config import check_table, from_table, read_toml, to_table, toml_text
from luthier.data.sources import DEFAULT
from luthier.errors import Interface, LuthierError, UsageError, interface
from luthier.files.atomic_file import replacing_file
from luthier.run import starting_weights
from luthier.run.checkpoint_record import newest_record
from luthier.training.old_names import with_new_names
from luthier.training.settings import Settings

RECIPE = "run.toml"
MOST_NAMED = 6  # differences in one message
ALWAYS_WRITTEN = [
    "preset",
    "tokenizer",
    "vocab_size",
    "validation",
    "test",
    "split_by",
    "field",
    "normalization",
    "invalid",
    "batches",
    "batch_size",
    "stride",
    "gradient_accumulation_steps",
    "optimizer",
    "learning_rate",
    "muon_learning_rate",
    "weight_decay",
    "beta1",
    "beta2",
    "max_grad_norm",
    "schedule",
    "warmup",
    "decay",
    "final_lr_fraction",
    "steps",
    "epochs",
    "seed",
    "balance",
    "balance_rate",
    "non_finite",
    "spikes",
    "eval_interval",
    "eval_batches",
    "sample_interval",
    "sample_prompt",
    "sample_tokens",
    "sample_temperature",
    "save_interval",
    "keep_checkpoints",
    "tensorboard",
    "device",
    "precision",
    "compile",
    "threads",
    "activation_checkpointing",
    "parallel",
]


@dataclass(frozen=True)
class Plan:
    """Everything that determines a run, except the text itself."""

    data: tuple[str, ...]
    settings: Settings
    model: Config

    @property
    def name(self) -> str:
        """The preset, or the model that the run goes on with."""
        source = self.settings.from_model
        return f"{self.settings.preset} from {source}" if source else self.settings.preset

    def toml(self) -> str:
        """The recipe that gives this plan again."""
        return toml_text({"data": list(self.data), **to_table(self.settings), "model": to_table(self.model)})


def resolve(
    data: tuple[str, ...] = (),
    recipe: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    where: str = "the recipe",
    source: Config | None = None,
) -> Plan:
    """Join defaults, recipe and command line; the later wins. `where` names the recipe in errors.

    data: paths and corpora. options: fields of Settings. model: fields of the preset's Config. The recipe's [model]
    goes with the recipe's preset, and is left out when `options` name another. source: the Config of the model that
    `from_model` names; without it the recipe must be that of a run which began so, with its whole [model].
    """
    table, options = with_new_names(recipe or {}), with_new_names(options or {})
    recipe_model, recipe_data = table.pop("model", {}), table.pop("data", ())
    if not isinstance(recipe_model, Mapping):
        raise UsageError(f"{where}: model is a table, [model]")
    recipe_data = (recipe_data,) if isinstance(recipe_data, str) else tuple(map(str, recipe_data))
    of_recipe = table.get("preset", Settings.preset)
    if options.get("preset", of_recipe) != of_recipe:
        recipe_model = {}
    if table.get("from_model") and options.get("from_model", table["from_model"]) != table["from_model"]:
        recipe_model = {}  # it goes with the recipe's model, as do these
        table = {name: value for name, value in table.items() if name not in ("from_model", "preset", "tokenizer")}
    model_table = {**recipe_model, **({"vocab_size": options["vocab_size"]} if options.get("vocab_size") else {})}
    model_table |= model or {}
    if table:
        with interface(Interface()):  # what is wrong in the recipe itself is named as it is written there
            check_table(Settings, table, where)
    given = {**table, **options}
    if given.get("from_model"):
        if source is not None:
            given = starting_weights.settings_for(str(given["from_model"]), source, given)
            changed = starting_weights.config_for(source, model_table, where)
        else:
            changed = starting_weights.config_of_run(given, model_table, where)
        registry.check_sizes(changed)
        settings = from_table(Settings, given, where)
        return Plan(tuple(data) or recipe_data or (DEFAULT,), settings, changed)
    settings = from_table(Settings, given, where)
    preset = registry.preset(settings.preset)
    if settings.vocab_size and "vocab_size" not in model_table:
        model_table["vocab_size"] = settings.vocab_size
    changed = from_table(type(preset), {**to_table(preset), **model_table}, f"[model] in {where}")
    registry.check_sizes(changed)
    return Plan(tuple(data) or recipe_data or (DEFAULT,), settings, changed)


def with_vocabulary(plan: Plan, vocab_size: int) -> Plan:
    """The plan with the vocabulary of its tokenizer. A model that the run goes on with keeps its vocabulary,
    which may be padded beyond that of its tokenizer.
    """
    if plan.settings.from_model:
        return plan
    return replace(plan, model=replace(plan.model, vocab_size=vocab_size))


def recipes() -> dict[str, Path]:
    """The recipes that come with Luthier, by name."""
    folder = Path(str(resources.files("luthier") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def read_recipe(name_or_path: str) -> dict[str, Any]:
    """The table of a recipe: one of Luthier's by name, a TOML file, or a run's folder."""
    shipped = recipes()
    path = Path(name_or_path)
    if name_or_path in shipped:
        path = shipped[name_or_path]
    elif (path / RECIPE).is_file():
        return read_run(path)
    elif not path.is_file():
        raise LuthierError(f"no recipe {name_or_path}: give a TOML file, a run's folder, or {', '.join(shipped)}")
    return read_toml(path)


def read_run(folder: Path) -> dict[str, Any]:
    """The recipe of a run, from its newest checkpoint or from run.toml. Raises a LuthierError if there is none.

    run.toml counts only where no checkpoint holds settings: before the first one, and in runs of version 0.1. It must
    be whole then: one that a full disk or a kill cut short must not be taken for the defaults.
    """
    record = newest_record(folder)
    if record is not None and record.recipe is not None:
        return record.recipe
    path = folder / RECIPE
    if not path.is_file():
        raise LuthierError(f"{folder} is not a run that can be resumed: it has no {RECIPE}")
    try:
        table, lacking = read_toml(path), ""
        lacking = ", ".join(missing(table))
    except LuthierError as error:
        table, lacking = {}, str(error)
    if lacking or not path.read_bytes().endswith(b"\n"):
        raise LuthierError(
            f"{path} is not whole ({lacking or 'its last line is cut off'}), and the run's checkpoints do not hold its "
            "settings: put back the file that the run wrote"
        )
    return table


def missing(table: Mapping[str, Any]) -> list[str]:
    """What a run.toml lacks that every version wrote: data, each setting of 0.1, and the sizes of the model."""
    lacking = [name for name in ("data", *ALWAYS_WRITTEN) if name not in with_new_names(table)]
    model = table.get("model")
    if not isinstance(model, Mapping) or "dropout" not in model:  # the last that was written, and decides training
        lacking.append("the end of [model]")
    return lacking[:3]


def write_recipe(folder: Path, plan: Plan) -> None:
    """Write run.toml, whole or not at all."""
    with replacing_file(folder / RECIPE) as path:
        path.write_text(plan.toml(), encoding="utf-8")


def edits(folder: Path, plan: Plan) -> list[str]:
    """Differences of run.toml, the copy for people, from the plan; or that it cannot be read."""
    try:
        table = read_toml(folder / RECIPE)
    except LuthierError as error:
        return [str(error)]
    if not table:
        return ["it is empty"]
    says, holds = flat(with_new_names(table)), flat(tomllib.loads(plan.toml()))
    holds = {name: value for name, value in holds.items() if name in says or not newer(name, value, plan)}
    found = [
        f"{name} is {says.get(name, 'missing')} there, {holds.get(name, 'unknown')} in the checkpoint"
        for name in dict.fromkeys([*holds, *says])
        if says.get(name) != holds.get(name)
    ]
    return found if len(found) <= MOST_NAMED else [*found[:MOST_NAMED], f"and {len(found) - MOST_NAMED} more"]


def newer(name: str, value: Any, plan: Plan) -> bool:
    """Whether a setting is one that version 0.1 did not write into run.toml, at the default that it then has."""
    if name in ("data", *ALWAYS_WRITTEN):
        return False
    table: type[Settings | Config] = type(plan.model) if name.startswith("model.") else Settings
    return any(item.default == value for item in fields(table) if item.name == name.removeprefix("model."))


def flat(table: Mapping[str, Any]) -> dict[str, Any]:
    """A table with its [model] as model.FIELD."""
    model = table.get("model")
    inner = {f"model.{name}": value for name, value in model.items()} if isinstance(model, Mapping) else {}
    return {**{name: value for name, value in table.items() if name != "model"}, **inner}
