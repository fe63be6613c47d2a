"""Estimated cost of a run: parameters, FLOPs, memory and disk."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from luthier.architectures import registry
from luthier.errors import of_model, setting
from luthier.memory import total_memory
from luthier.model.cores.blockwise import MAX_SCORES, QUERIES_PER_BLOCK
from luthier.model.loss import LOGITS_PER_CHUNK
from luthier.model.moe import MoE
from luthier.model.transformer import Block, Transformer
from luthier.run.folder import RunFolder
from luthier.run.plan import Plan
from luthier.training.flops import flops_per_token
from luthier.training.machine import choose_device
from luthier.training.optimizers import build_optimizers

FLOAT = 4  # bytes of a float32


@dataclass(frozen=True)
class Cost:
    """Counts and bytes of a run."""

    parameters: int
    active_parameters: int
    flops_per_token: int  # of a training step
    weights: int  # bytes
    gradients: int
    optimizer: int
    activations: int
    checkpoint: int  # bytes on disk: weights and what resuming needs

    @property
    def memory(self) -> int:
        """Total bytes of a training step."""
        return self.weights + self.gradients + self.optimizer + self.activations


def estimate(plan: Plan) -> Cost:
    """Estimate on the meta device, without allocating the model."""
    model = registry.build_on_meta(plan.model)
    parameters, active = registry.count_parameters(plan.model)
    moments = sum(
        parameter.numel() * (1 if isinstance(optimizer, torch.optim.Muon) else 2)
        for optimizer in build_optimizers(model, plan.settings)
        for group in optimizer.param_groups
        for parameter in group["params"]
    )
    return Cost(
        parameters, active, flops_per_token(model, plan.model.context_length),
        FLOAT * parameters, FLOAT * parameters, FLOAT * moments, activation_bytes(model, plan),
        FLOAT * (parameters + moments),
    )  # fmt: skip


def activation_bytes(model: Transformer, plan: Plan) -> int:
    """Bytes of activations that the backward pass of one batch needs.

    With activation checkpointing that is the input of each block, and all of one block. Only one piece of the logits is
    there at a time.
    """
    tokens = plan.settings.batch_size * plan.model.context_length
    product = FLOAT if plan.settings.precision == "float32" else 2  # bytes of an element in a matrix product
    blocks = [block_bytes(block, plan, product) for block in model.layers]
    if plan.settings.activation_checkpointing:
        a_token = len(blocks) * FLOAT * plan.model.dim + max(blocks)
    else:
        a_token = sum(blocks)
    logits = min(tokens * plan.model.vocab_size, LOGITS_PER_CHUNK) * (FLOAT + 2 * product)
    return tokens * a_token + logits


def block_bytes(block: Block, plan: Plan, product: int) -> int:
    """Of a token in one block, from the products of its layers.

    Each linear layer keeps its input, each norm and residual its own in float32, attention its q, k, v and result. With
    dropout the attention weights, (T, T) a head, are kept too; and those that are not hidden where a CPU writes
    attention out (model/cores/blockwise.py).
    """
    context, dim = plan.model.context_length, plan.model.dim
    attention = block.attention
    a_token = product * 2 * (attention.n_heads + attention.n_kv_heads) * attention.head_dim
    if plan.model.dropout:
        a_token += product * 3 * attention.n_heads * context
    elif product < FLOAT and context**2 <= MAX_SCORES and choose_device(plan.settings.device).type == "cpu":
        a_token += product * attention.n_heads * (context + min(QUERIES_PER_BLOCK, context)) // 2
    a_token += product * 3 * hidden_width(block.feed_forward) + 2 * product * dim
    return a_token + FLOAT * 4 * dim  # the stream, twice, and the inputs of two norms


def hidden_width(feed_forward: nn.Module) -> int:
    """The hidden elements of one token: of all experts that it is routed to, or of the feed-forward."""
    if isinstance(feed_forward, MoE):
        shared = 0 if feed_forward.shared is None else hidden_width(feed_forward.shared)
        return feed_forward.experts.down.shape[1] * feed_forward.experts_per_token + shared
    return int(feed_forward.get_submodule("down").get_parameter("weight").shape[1])


def check(plan: Plan, folder: RunFolder, device: torch.device) -> list[str]:
    """Warnings about a run that starts now. Raises a LuthierError if the disk is too small."""
    cost = estimate(plan)
    folder.check_space(cost.weights + 2 * cost.checkpoint)  # the best, the last, and the next being written
    there = total_memory(device)
    if there and cost.memory > there:
        return [
            f"the run needs about {cost.memory / 1e9:.1f} GB of memory and there are {there / 1e9:.1f} GB: "
            f"lower {setting('batch_size')} (and raise {setting('gradient_accumulation_steps')}), "
            f"{of_model('context_length')}, or take a smaller {setting('preset')}"
        ]
    return []
