"""The choice of a core, by what each declares that it supports."""

from __future__ import annotations

from luthier.model.cores.blockwise import BlockwiseCore
from luthier.model.cores.core import AttentionCore, Need
from luthier.model.cores.fused import FusedCore, FusedDropoutCore
from luthier.model.cores.plain import PlainCore

CORES: tuple[type[AttentionCore], ...] = (FusedDropoutCore, BlockwiseCore, FusedCore, PlainCore)  # the fastest first


def choose_core(need: Need) -> AttentionCore:
    """The fastest core that supports what a layer needs. PlainCore supports everything."""
    return next(core() for core in CORES if core.supports(need) is None)
