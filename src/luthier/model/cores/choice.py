"""Choose an attention core by what each declares to support."""

from __future__ import annotations

from luthier.model.cores.blockwise import BlockwiseCore
from luthier.model.cores.core import AttentionCore, CoreRequirements
from luthier.model.cores.eager import EagerCore
from luthier.model.cores.fused import FusedCore, FusedDropoutCore

CORES: tuple[type[AttentionCore], ...] = (FusedDropoutCore, BlockwiseCore, FusedCore, EagerCore)  # the fastest first


def choose_core(needs: CoreRequirements) -> AttentionCore:
    """The fastest core that supports these requirements. EagerCore supports everything."""
    return next(core() for core in CORES if core.supports(needs) is None)
