"""A named place in a model where forward hooks can read or replace an intermediate value."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

T = TypeVar("T")


class HookPoint(nn.Module):
    """Identity module through which a layer passes an intermediate value. A forward hook on it receives the value and
    may return a replacement. Without hooks it costs one call.
    """

    def forward(self, value: T) -> T:
        return value
