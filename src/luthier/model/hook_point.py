"""A named place in a model where forward hooks see, or replace, what passes."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

T = TypeVar("T")


class HookPoint(nn.Module):
    """Identity. A part passes what inspection needs through one: a forward hook on it sees the value, and may return
    another in its place. Without hooks it costs one call.
    """

    def forward(self, value: T) -> T:
        return value
