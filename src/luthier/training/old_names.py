"""Names that settings had in version 0.1: recipes, run folders, command lines and Python calls may still use them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.errors import UsageError, setting

NEW_NAMES = {
    "accumulation": "gradient_accumulation_steps",
    "clip": "max_grad_norm",
    "evaluate_batches": "eval_batches",
    "evaluate_every": "eval_interval",
    "final_learning_rate": "final_lr_fraction",
    "keep": "keep_checkpoints",
    "normalisation": "normalization",
    "sample_every": "sample_interval",
    "save_every": "save_interval",
}
NEW_VALUES = {("non_finite", "back"): "rewind", ("spikes", "back"): "rewind"}


def with_new_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their present names and values. Raises a UsageError for one that has both its names."""
    twice = [name for name in settings if NEW_NAMES.get(name) in settings]
    if twice:
        old, new = twice[0], NEW_NAMES[twice[0]]
        raise UsageError(f"{setting(old)} is the old name of {setting(new)}: give one of the two")
    renamed = {NEW_NAMES.get(name, name): value for name, value in settings.items()}
    return {name: new_value(name, value) for name, value in renamed.items()}


def new_value(name: str, value: Any) -> Any:
    """The present value of a setting."""
    return NEW_VALUES.get((name, value), value) if isinstance(value, str) else value


def with_new_options(arguments: list[str]) -> list[str]:
    """A command line with the present options in the place of old ones: `--clip 1`, `--clip=1`."""
    found: list[str] = []
    for argument in arguments:
        option, equals, value = argument.partition("=")
        name = option.removeprefix("--").replace("-", "_")
        if option.startswith("--") and name in NEW_NAMES:
            option = "--" + NEW_NAMES[name].replace("_", "-")
        before = found[-1].removeprefix("--").replace("-", "_") if found else ""
        if not equals and found and found[-1].startswith("--"):
            option = new_value(before, option)
        elif equals:
            value = new_value(option.removeprefix("--").replace("-", "_"), value)
        found.append(option + equals + value)
    return found
