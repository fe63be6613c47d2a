"""Activation checkpointing: keep the input of each block, and compute the rest again when the backward pass needs it.

A step then holds the activations of one block instead of all, and does a third more arithmetic (arXiv 1604.06174).
Gradients are the same to the last bit: dropout's masks are a function of a seed and the place (model/dropout.py), so
the second time meets the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from luthier.model.moe import MoE
from luthier.model.transformer import Block, Transformer


class CheckpointedBlock(Block):
    """A block that forgets, in training, what it computed between its input and its output.

    It stands around the whole call, and so around what compile_blocks compiles and the hooks that FSDP adds: the
    backward pass runs the compiled block once more, whatever it leaves out of its graphs.
    """

    def __call__(self, *arguments: Any) -> Any:
        if not (self.training and torch.is_grad_enabled()):
            return super().__call__(*arguments)
        return checkpoint(
            super().__call__, *arguments, use_reentrant=False, preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), uncounted(self)),
        )  # fmt: skip


def checkpoint_activations(model: Transformer) -> None:
    """Let each block forget its activations. Before FSDP, which gives blocks a class of its own made from theirs."""
    for block in model.layers:
        block.__class__ = CheckpointedBlock


@contextmanager
def uncounted(block: nn.Module) -> Iterator[None]:
    """Put back the counts of mixture layers afterwards: tokens that pass for the second time are no more tokens."""
    layers = [module for module in block.modules() if isinstance(module, MoE)]
    counts = [(layer.load.clone(), layer.input_sum.clone()) for layer in layers]
    try:
        yield
    finally:  # checkpoint leaves a block by an exception as soon as it has what it needs
        for layer, (load, input_sum) in zip(layers, counts, strict=True):
            layer.load.copy_(load)
            layer.input_sum.copy_(input_sum)
