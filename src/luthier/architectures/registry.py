"""All the architectures by name, and the ways to a model: with fresh weights, or with given ones."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields, replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from luthier.architectures import gpt2, llama, llama4
from luthier.architectures.names.settings import LARGEST, LARGEST_CONTEXT, LARGEST_DEPTH, LARGEST_EXPERTS
from luthier.errors import UsageError
from luthier.model.memory import check_fits
from luthier.model.moe import MoE
from luthier.model.seeds import seeded
from luthier.model.transformer import Transformer

ARCHITECTURES: dict[str, ModuleType] = {"gpt2": gpt2, "llama": llama, "llama4": llama4}
MOST = {
    "n_layers": LARGEST_DEPTH,
    "n_experts": LARGEST_EXPERTS,
    **dict.fromkeys(("context_length", "attention_chunk", "temperature_floor"), LARGEST_CONTEXT),
}
Config = gpt2.Config | llama.Config | llama4.Config


def presets() -> dict[str, Config]:
    """Every named size of every architecture."""
    return {name: config for module in ARCHITECTURES.values() for name, config in module.SIZES.items()}


def preset(name: str, **changes: Any) -> Config:
    """A named size, with some fields changed. An unknown name is a UsageError that names the nearest."""
    known = presets()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UsageError(f"no preset '{name}'. {hint}There are {', '.join(known)}")
    return replace(known[name], **changes)


def name_of(config: Config) -> str:
    """The architecture that a config belongs to: "gpt2", "llama" or "llama4"."""
    for name, module in ARCHITECTURES.items():
        if type(config) is module.Config:
            return name
    raise UsageError(f"{type(config).__name__} is no architecture's config")


def module_of(config: Config) -> ModuleType:
    """The module with `build` and `initialise`."""
    return ARCHITECTURES[name_of(config)]


def check(config: Config) -> None:
    """A size below 1 is a UsageError here; in a layer it would be a division by zero. So is one beyond all reason."""
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, int) and not isinstance(value, bool):
            most = MOST.get(field.name, LARGEST)
            if value < 1:
                raise UsageError(f"{field.name} {value} must be at least 1")
            if value > most:
                raise UsageError(f"{field.name} {value:,} must be at most {most:,}")


def build_on_meta(config: Config) -> Transformer:
    """The model with shapes and no memory: for counting, and for weights that are assigned later."""
    check(config)
    with torch.device("meta"):
        model: Transformer = module_of(config).build(config)
    return model


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
    module_of(config).initialise(model, config, seeded(seed))
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
