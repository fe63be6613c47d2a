"""AdamW (arXiv 1711.05101) and Muon (Jordan et al. 2024; scaled as in arXiv 2502.16982), with parameter groups."""

from __future__ import annotations

import torch
from torch import nn

from luthier.model.transformer import Transformer
from luthier.training.muon import Muon
from luthier.training.settings import Settings


def build_optimizers(model: Transformer, settings: Settings) -> list[torch.optim.Optimizer]:
    """Build one optimizer, or two with Muon. Each group stores its peak learning rate under "peak".

    Weight decay applies to matrices only, not to norms, biases and scales. Muon takes the hidden matrices; the
    embedding, the output matrix and stacked experts (three dimensions, which torch.optim.Muon refuses) stay with AdamW.
    """
    hidden: list[nn.Parameter] = []
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    inside_blocks = {id(parameter) for parameter in model.blocks.parameters()}
    for parameter in model.parameters():
        if settings.optimizer == "muon" and parameter.ndim == 2 and id(parameter) in inside_blocks:
            hidden.append(parameter)
        else:
            (matrices if parameter.ndim > 1 else vectors).append(parameter)
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            fused=True,
        )
    ]
    if hidden:
        optimizers.append(
            Muon(
                hidden,
                lr=settings.muon_learning_rate or settings.learning_rate,
                weight_decay=settings.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def set_learning_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Set each group's learning rate to its peak times `factor`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor


def gradient_norm(model: nn.Module) -> torch.Tensor:
    """2-norm of all gradients together, a scalar."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def clip_gradients(model: nn.Module, norm: torch.Tensor, largest: float) -> None:
    """Scale all gradients so that their norm is at most `largest`; no-op if it already is."""
    if norm > largest:  # not clip_grad_norm_, which passes over all gradients even to multiply by 1
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), largest, norm)
