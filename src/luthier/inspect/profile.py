"""Parameter counts and timings of a model's modules."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from luthier.inspect.recording import eager_mode, eval_mode
from luthier.model.moe import MoE
from luthier.model.transformer import Transformer

REPEATS = 3  # timed forward passes, after one warm-up


@dataclass(frozen=True)
class ModuleProfile:
    """Size and time of a module. layer: None outside the blocks. A matrix shared by two modules counts for the first.

    active: parameters used for one token, without inactive experts. seconds: in one forward pass.
    """

    name: str
    layer: int | None
    parameters: int
    active: int
    seconds: float


def profile_modules(model: Transformer, tokens: Tensor) -> tuple[list[ModuleProfile], float]:
    """Profiles of a model's modules in the order of computation, and the seconds of a full forward pass.

    Times are medians of a few passes over the (B, T) tokens. They sum to less than the total: residual additions and
    masks belong to no module.
    """
    modules = list(modules_of(model))
    passes = [time_pass(model, tokens, [module for _, _, module in modules]) for _ in range(1 + REPEATS)][1:]
    counted: set[nn.Parameter] = set()
    parts = []
    for number, (name, layer, module) in enumerate(modules):
        new = [weight for weight in module.parameters() if weight not in counted]
        counted.update(new)
        parameters = sum(weight.numel() for weight in new)
        inactive = module.inactive_parameters if isinstance(module, MoE) else 0
        parts.append(
            ModuleProfile(name, layer, parameters, parameters - inactive, median(each[number] for each, _ in passes))
        )
    return parts, median(whole for _, whole in passes)


def modules_of(model: Transformer) -> Iterator[tuple[str, int | None, nn.Module]]:
    """Modules to profile, none nested in another: (name, layer, module)."""
    yield "embedding", None, model.embedding
    if model.position_embedding is not None:
        yield "positions", None, model.position_embedding
    for layer, block in enumerate(model.layers):
        experts = "experts" if isinstance(block.feed_forward, MoE) else "feed-forward"
        parts = (
            ("norm", block.attention_norm),
            ("attention", block.attention),
            ("norm", block.attention_post),
            ("norm", block.feed_forward_norm),
            (experts, block.feed_forward),
            ("norm", block.feed_forward_post),
        )
        yield from ((name, layer, part) for name, part in parts if next(part.parameters(), None) is not None)
    yield "norm", None, model.norm
    yield "output", None, model.output


@torch.inference_mode()
def time_pass(model: Transformer, tokens: Tensor, modules: list[nn.Module]) -> tuple[list[float], float]:
    """Seconds of each module and in total, in one forward pass."""
    seconds = [0.0] * len(modules)
    with eval_mode(model), eager_mode(model), module_timers(modules, seconds, tokens.device):
        start = now(tokens.device)
        model(tokens)
        whole = now(tokens.device) - start
    return seconds, whole


@contextmanager
def module_timers(modules: list[nn.Module], seconds: list[float], device: torch.device) -> Iterator[None]:
    """Within the context, add the duration of each module call to its entry in `seconds`."""
    handles = []
    for number, module in enumerate(modules):

        def start(_: nn.Module, inputs: tuple[Any, ...], number: int = number) -> None:
            seconds[number] -= now(device)

        def stop(_: nn.Module, inputs: tuple[Any, ...], output: Any, number: int = number) -> None:
            seconds[number] += now(device)

        handles += [module.register_forward_pre_hook(start), module.register_forward_hook(stop)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def now(device: torch.device) -> float:
    """Current time in seconds, after synchronizing the device."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
