"""Registry of model families, and building models: randomly initialized or with given weights."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from luthier.architectures import (
    arcee,
    composed,
    deepseek,
    ernie4_5,
    gemma2,
    gemma3,
    gpt2,
    gpt_oss,
    gptj,
    gptneox,
    granite,
    granite_moe,
    helium,
    llama,
    llama4,
    mistral,
    mixtral,
    nanochat,
    olmo,
    phi3,
    qwen2,
    qwen3,
    qwen3_moe,
    smollm3,
    stablelm,
)
from luthier.architectures.checked_values import LARGEST, LARGEST_CONTEXT, LARGEST_DEPTH, LARGEST_EXPERTS
from luthier.architectures.family import Config, Family, FormatSpec
from luthier.errors import UsageError, of_model
from luthier.memory import check_fits
from luthier.model.moe import MoE
from luthier.model.seeds import seeded
from luthier.model.transformer import Transformer

BUILT_IN = (
    gpt2.FAMILY,
    llama.FAMILY,
    llama4.FAMILY,
    mistral.FAMILY,
    mixtral.FAMILY,
    qwen2.FAMILY,
    qwen3.FAMILY,
    qwen3_moe.FAMILY,
    smollm3.FAMILY,
    olmo.FAMILY,
    granite.FAMILY,
    granite_moe.FAMILY,
    arcee.FAMILY,
    ernie4_5.FAMILY,
    helium.FAMILY,
    gemma2.FAMILY,
    gemma3.FAMILY,
    phi3.FAMILY,
    gptneox.FAMILY,
    stablelm.FAMILY,
    gptj.FAMILY,
    gpt_oss.FAMILY,
    deepseek.FAMILY,
    nanochat.FAMILY,
    composed.FAMILY,
)
# Any: the families' Configs share no type parameter; `family_of` returns the specific one
FAMILIES: dict[str, Family[Any]] = {}
MAX_VALUES = {
    "n_layers": LARGEST_DEPTH,
    "n_experts": LARGEST_EXPERTS,
    **dict.fromkeys(("context_length", "attention_chunk", "temperature_floor", "window"), LARGEST_CONTEXT),
}
C = TypeVar("C", bound=Config)


def register(family: Family[Any]) -> None:
    """Add a family to FAMILIES: presets, training, files and inspection know it from then on, in this process.

    Raises a UsageError where another family has its name, its Config, one of its presets or classes, and where it has
    no format "hf", in which training runs are written.
    """
    if "hf" not in family.formats:
        raise UsageError(f"the family '{family.name}' has no format 'hf': training runs are written in it, add it")
    mine = kept_names(family)
    for other in FAMILIES.values():
        taken = mine & kept_names(other)
        if taken:
            raise UsageError(f"the family '{other.name}' has {min(taken)} already: choose another")
    FAMILIES[family.name] = family


def kept_names(family: Family[Any]) -> set[str]:
    """What no two families may share, in words."""
    classes = family.formats["hf"].classes
    return {
        f"the name '{family.name}'",
        f"the class {family.config.__module__}.{family.config.__qualname__}",
        *(f"the preset '{name}'" for name in family.sizes),
        *(f"the class '{name}'" for name in classes),
        *(f"the model_type '{kind}'" for kind in classes.values()),
    }


for built_in in BUILT_IN:
    register(built_in)


def presets() -> dict[str, Config]:
    """Every named size of every family."""
    return {name: config for family in FAMILIES.values() for name, config in family.sizes.items()}


def preset(name: str, **changes: Any) -> Config:
    """The config of a named size, with some fields changed. Raises a UsageError for an unknown name."""
    known = presets()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UsageError(f"no preset '{name}'. {hint}There are {', '.join(known)}")
    return replace(known[name], **changes)


def family_of(config: C) -> Family[C]:
    """The family of a config."""
    for family in FAMILIES.values():
        if type(config) is family.config:
            return cast(Family[C], family)
    raise UsageError(f"{type(config).__name__} is no architecture's config")


def name_of(config: Config) -> str:
    """The name of a config's family, such as "llama"."""
    return family_of(config).name


def families_with(format: str) -> dict[str, FormatSpec[Any]]:
    """The FormatSpecs of all families that have this format, by family name."""
    return {name: family.formats[format] for name, family in FAMILIES.items() if format in family.formats}


def format_spec(config: C, format: str) -> FormatSpec[C]:
    """The FormatSpec of a config's family. Raises a UsageError where the family does not have this format."""
    family = family_of(config)
    if format not in family.formats:
        *first, last = families_with(format)
        there = f"{', '.join(first)} and {last}" if first else last
        title = {"meta": "Meta's format"}.get(format, f"the format {format}")
        raise UsageError(f"{title} is for {there}, not for {family.name}")
    return family.formats[format]


def check_sizes(config: Config) -> None:
    """Raise a UsageError for a size below 1, which would be a division by zero in a layer, or above its maximum."""
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, int) and not isinstance(value, bool):
            most = MAX_VALUES.get(field.name, LARGEST)
            if value < 1:
                raise UsageError(f"{of_model(field.name)} {value} must be at least 1")
            if value > most:
                raise UsageError(f"{of_model(field.name)} {value:,} must be at most {most:,}")


def build_on_meta(config: Config) -> Transformer:
    """The model on the `meta` device (shapes without storage): for counting parameters, and for `assign_weights`."""
    check_sizes(config)
    with torch.device("meta"):
        return family_of(config).build(config)


def build(
    name_or_config: str | Config,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Transformer:
    """A randomly initialized model, of a preset or a Config. The same seed gives the same weights on every device.

    >>> model = luthier.build("llama-nano", seed=1)
    >>> model.embedding.weight.shape
    torch.Size([...])
    """
    config = preset(name_or_config) if isinstance(name_or_config, str) else name_or_config
    model = build_on_meta(config)
    for weight in model.parameters():  # not model.to(dtype), which would cast the buffers that count expert load
        weight.data = weight.data.to(dtype)
    if torch.device(device).type == "meta":
        return model
    check_fits(
        sum(weight.nbytes for weight in model.parameters()),
        torch.device("cpu"),
        f"a model of {sum(weight.numel() for weight in model.parameters()):,} parameters takes",
        "take fewer layers, or narrower ones",
    )
    model.to_empty(device="cpu")  # initialized on the CPU, whose generator gives the same numbers on every machine
    model.tie()
    family_of(config).initialize(model, config, seeded(seed))
    return model.to(device)


def assign_weights(model: Transformer, weights: Mapping[str, Tensor]) -> None:
    """Assign weights to a model on `meta`, without copying. A tied output matrix may be left out."""
    if model.tie_embeddings:
        weights = {**weights, "output.weight": weights["embedding.weight"]}
    model.load_state_dict(weights, assign=True)
    model.tie()
    model.to(model.device)  # moves the buffers: dropout seeds and expert loads


def count_parameters(config: Config) -> tuple[int, int]:
    """(total, active) parameters; active: those used for one token. Tied matrices count once."""
    model = build_on_meta(config)
    total = sum(parameter.numel() for parameter in model.parameters())
    idle = sum(moe.inactive_parameters for moe in model.modules() if isinstance(moe, MoE))
    return total, total - idle
