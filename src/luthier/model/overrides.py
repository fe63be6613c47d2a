"""Detect modules that compute something other than their class's `forward`, such as hooked ones.

Code that reads a module's weights instead of calling it (the fused loss, native code) must check this first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.modules.module as torch_module
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

MODULE_HOOKS = {
    "_forward_pre_hooks": "a forward pre-hook",
    "_forward_hooks": "a forward hook",
    "_backward_pre_hooks": "a backward pre-hook",
    "_backward_hooks": "a backward hook",
}
GLOBAL_HOOKS: tuple[Mapping[int, Any], ...] = tuple(
    getattr(torch_module, f"_global{name}") for name in MODULE_HOOKS
)  # registered by torch.nn.modules.module.register_module_forward_hook and the like, for all modules


def must_be_called(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module's weights do not suffice to compute its output: another class, or an overridden forward."""
    return type(module) is not kind or find_override(module) is not None


def find_override(module: nn.Module) -> str | None:
    """Describe what overrides a module's forward: hooks, an instance's own `forward`, parametrizations; None: nothing.

    Subclasses are not detected: compare `type(module)`.
    """
    for name, words in MODULE_HOOKS.items():
        if getattr(module, name):
            return words
    if any(GLOBAL_HOOKS):
        return "a global module hook"
    if "forward" in vars(module):
        return "its own forward"
    if is_parametrized(module):
        return "parametrizations"
    return None
