"""What makes a module compute something else than its class says. Code that reads a module's weights instead of calling
it, as a fused loss or a compiled step does, may do so only where there is nothing of the kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.modules.module as torch_module
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

OWN_HOOKS = {
    "_forward_pre_hooks": "a forward pre-hook",
    "_forward_hooks": "a forward hook",
    "_backward_pre_hooks": "a backward pre-hook",
    "_backward_hooks": "a backward hook",
}
GLOBAL_HOOKS: tuple[Mapping[int, Any], ...] = tuple(
    getattr(torch_module, f"_global{name}") for name in OWN_HOOKS
)  # of torch.nn.modules.module.register_module_forward_hook and its like: they act on every module


def must_be_called(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether only calling a module gives what it computes: it is not exactly of a kind, or something is changed."""
    return type(module) is not kind or override(module) is not None


def override(module: nn.Module) -> str | None:
    """What is changed in a module, in words: hooks, a `forward` of its own, parametrizations; None: nothing is.

    A subclass is no such change: compare `type(module)`.
    """
    for name, words in OWN_HOOKS.items():
        if getattr(module, name):
            return words
    if any(GLOBAL_HOOKS):
        return "a global module hook"
    if "forward" in vars(module):
        return "a forward of its own"
    if is_parametrized(module):
        return "parametrizations"
    return None
