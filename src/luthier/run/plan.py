"""What a run will be: every setting resolved, from a recipe, a preset and the command line.

A recipe is a TOML file: the fields of training.Settings, `data`, and a table [model] with fields of the architecture's
Config. Each run writes the recipe that it resolved, so a run can be made again from its own folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from luthier.architectures import registry
from luthier.architectures.registry import Config
from luthier.config import from_table, read_toml, to_table, toml_text
from luthier.data.sources import DEFAULT
from luthier.errors import LuthierError, UsageError
from luthier.training.settings import Settings

RECIPE = "run.toml"


@dataclass(frozen=True)
class Plan:
    """All that decides a run, but for the text itself."""

    data: tuple[str, ...]
    settings: Settings
    model: Config

    def toml(self) -> str:
        """The recipe that gives this plan again."""
        return toml_text({"data": list(self.data), **to_table(self.settings), "model": to_table(self.model)})


def resolve(
    data: tuple[str, ...] = (),
    recipe: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    where: str = "the recipe",
) -> Plan:
    """Join defaults, recipe and command line; the later wins. `where` names the recipe in errors.

    data: paths and corpora. options: fields of Settings. model: fields of the preset's Config. The recipe's [model]
    goes with the recipe's preset, and is left out when `options` name another.
    """
    table, options = dict(recipe or {}), dict(options or {})
    recipe_model, recipe_data = table.pop("model", {}), table.pop("data", ())
    if not isinstance(recipe_model, Mapping):
        raise UsageError(f"{where}: model is a table, [model]")
    recipe_data = (recipe_data,) if isinstance(recipe_data, str) else tuple(map(str, recipe_data))
    of_recipe = table.get("preset", Settings.preset)
    if options.get("preset", of_recipe) != of_recipe:
        recipe_model = {}
    model_table = {**recipe_model, **({"vocab_size": options["vocab_size"]} if options.get("vocab_size") else {})}
    model_table |= model or {}
    settings = from_table(Settings, {**table, **options}, where)
    preset = registry.preset(settings.preset)
    if settings.vocab_size and "vocab_size" not in model_table:
        model_table["vocab_size"] = settings.vocab_size
    changed = from_table(type(preset), {**to_table(preset), **model_table}, f"[model] in {where}")
    registry.check(changed)
    return Plan(tuple(data) or recipe_data or (DEFAULT,), settings, changed)


def with_vocabulary(plan: Plan, vocab_size: int) -> Plan:
    """The plan for the tokenizer that it turned out to have."""
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
        path = path / RECIPE
    elif not path.is_file():
        raise LuthierError(f"no recipe {name_or_path}: give a TOML file, a run's folder, or {', '.join(shipped)}")
    return read_toml(path)


def read_run(folder: Path) -> dict[str, Any]:
    """The recipe that a run wrote into its folder. A LuthierError when there is no run."""
    if not (folder / RECIPE).is_file():
        raise LuthierError(f"{folder} is no run that could go on: it has no {RECIPE}")
    return read_toml(folder / RECIPE)


MAY_CHANGE = {
    "steps", "epochs", "evaluate_every", "evaluate_batches", "sample_every", "sample_prompt", "sample_tokens",
    "sample_temperature", "save_every", "keep", "tensorboard", "device", "compile", "threads", "non_finite",
    "spikes", "parallel", "activation_checkpointing",
}  # fmt: skip


def check_resumable(
    options: Mapping[str, Any], model: Mapping[str, Any], data: tuple[str, ...], plan: Plan, *, anyway: bool = False
) -> Plan:
    """The plan of a run that goes on, with what may change changed; a UsageError lists what may not, and differs.

    anyway: let settings of training change too. The model and the text cannot.
    """
    fixed = [
        f"model.{name} is {getattr(plan.model, name, None)}, not {value}"
        for name, value in model.items()
        if getattr(plan.model, name, None) != value
    ]
    if data and data != plan.data:
        fixed.append(f"data is {' '.join(plan.data)}, not {' '.join(data)}")
    names = {field.name for field in fields(Settings)}
    before = {name: getattr(plan.settings, name) if name in names else None for name in options}
    changed = [
        f"{name} is {before[name]}, not {value}"
        for name, value in options.items()
        if value != before[name] and name not in MAY_CHANGE
    ]
    bound = {"preset", "tokenizer", "vocab_size", "batches", "split_by", "validation", "test"}
    if fixed or (changed and (not anyway or any(name in bound and options[name] != before[name] for name in options))):
        way_out = "start another run with --out" + ("" if fixed else ", or add --anyway where only training changes")
        raise UsageError(f"the run was begun otherwise: {'; '.join(fixed + changed)}. Leave that out, {way_out}")
    changes = dict(options)
    if changes.get("steps"):
        changes.setdefault("epochs", 0.0)
    if changes.get("epochs"):
        changes.setdefault("steps", 0)
    return replace(plan, settings=replace(plan.settings, **changes))
