"""All families by name, and models of them: with new weights, or with given ones."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from luthier.architectures import gpt2, llama, llama4
from luthier.architectures.checked_values import LARGEST, LARGEST_CONTEXT, LARGEST_DEPTH, LARGEST_EXPERTS
from luthier.architectures.family import Config, Family, Names
from luthier.errors import UsageError, of_model
from luthier.model.memory import check_fits
from luthier.model.moe import MoE
from luthier.model.seeds import seeded
from luthier.model.transformer import Transformer

# Any: the Configs of a list of families have no common type parameter; `family_of` gives each its own
FAMILIES: Mapping[str, Family[Any]] = {
    family.name: family
    for family in (
        gpt2.FAMILY,
        llama.FAMILY,
        llama4.FAMILY,
    )
}
MOST = {
    "n_layers": LARGEST_DEPTH,
    "n_experts": LARGEST_EXPERTS,
    **dict.fromkeys(("context_length", "attention_chunk", "temperature_floor"), LARGEST_CONTEXT),
}
C = TypeVar("C", bound=Config)


def presets() -> dict[str, Config]:
    """Every named size of every family."""
    return {name: config for family in FAMILIES.values() for name, config in family.sizes.items()}


def preset(name: str, **changes: Any) -> Config:
    """A named size, with some fields changed. An unknown name is a UsageError that names the nearest."""
    known = presets()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UsageError(f"no preset '{name}'. {hint}There are {', '.join(known)}")
    return replace(known[name], **changes)


def family_of(config: C) -> Family[C]:
    """The family that a config belongs to."""
    for family in FAMILIES.values():
        if type(config) is family.config:
            return cast(Family[C], family)
    raise UsageError(f"{type(config).__name__} is no architecture's config")


def name_of(config: Config) -> str:
    """The name of the family that a config belongs to: "gpt2", "llama" or "llama4"."""
    return family_of(config).name


def with_format(format: str) -> dict[str, Names[Any]]:
    """The names of every family that comes in a format, by the family's name."""
    return {name: family.formats[format] for name, family in FAMILIES.items() if format in family.formats}


def names_of(config: C, format: str) -> Names[C]:
    """A family's names of weights and settings in a format. A UsageError where the family does not come in it."""
    family = family_of(config)
    if format not in family.formats:
        there = " and ".join(with_format(format))
        title = {"meta": "Meta's format"}.get(format, f"the format {format}")
        raise UsageError(f"{title} is for {there}, not for {family.name}")
    return family.formats[format]


def check(config: Config) -> None:
    """A size below 1 is a UsageError here; in a layer it would be a division by zero. So is one beyond all reason."""
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, int) and not isinstance(value, bool):
            most = MOST.get(field.name, LARGEST)
            if value < 1:
                raise UsageError(f"{of_model(field.name)} {value} must be at least 1")
            if value > most:
                raise UsageError(f"{of_model(field.name)} {value:,} must be at most {most:,}")


def build_on_meta(config: Config) -> Transformer:
    """The model with shapes and no memory: for counting, and for weights that are assigned later."""
    check(config)
    with torch.device("meta"):
        return family_of(config).build(config)


def build(
    name_or_config: str | Config,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Transformer:
    """A model with fresh weights: `build("gpt2-124m")`. The same seed gives the same weights on every device."""
    config = preset(name_or_config) if isinstance(name_or_config, str) else name_or_config
    model = build_on_meta(config)
    for weight in model.parameters():  # not model.to(dtype): that would round the sums that experts are balanced by
        weight.data = weight.data.to(dtype)
    if torch.device(device).type == "meta":
        return model
    check_fits(
        sum(weight.nbytes for weight in model.parameters()),
        torch.device("cpu"),
        f"a model of {sum(weight.numel() for weight in model.parameters()):,} parameters takes",
        "take fewer layers, or narrower ones",
    )
    model.to_empty(device="cpu")  # drawn on the CPU, whose generator gives the same numbers everywhere
    model.tie()
    family_of(config).initialize(model, config, seeded(seed))
    return model.to(device)


def assign(model: Transformer, weights: Mapping[str, Tensor]) -> None:
    """Give a model made on `meta` its weights, taken as they are and not copied. Tied ones may come once."""
    if model.tie_embeddings:
        weights = {**weights, "output.weight": weights["embedding.weight"]}
    model.load_state_dict(weights, assign=True)
    model.tie()
    model.to(model.device)  # what is no weight: the seeds of dropout, the loads of experts


def count_parameters(config: Config) -> tuple[int, int]:
    """(all, active): how many parameters there are, and how many each token meets. Tied matrices count once."""
    model = build_on_meta(config)
    total = sum(parameter.numel() for parameter in model.parameters())
    idle = sum(moe.idle_parameters for moe in model.modules() if isinstance(moe, MoE))
    return total, total - idle
