"""What a trainer minimises: a batch in; the summed loss, the number of trained tokens and extra figures out.

    trainer = Trainer(model, batches, settings, total_steps=1000, objective=LanguageModeling())

Shapes: B batch, T tokens, C dim, V vocab_size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luthier.data.batches import Batch
from luthier.model.loss import IGNORE_INDEX, Kernel, cross_entropy_sum, loss_and_gradient
from luthier.model.overrides import must_be_called
from luthier.model.transformer import Transformer


@dataclass(frozen=True)
class Loss:
    """Loss of a batch. All are sums over its trained tokens, so that batches of different sizes can be added."""

    sum: Tensor  # scalar with a gradient, in nats for language modelling
    count: Tensor  # number of trained tokens, scalar int64
    figures: Mapping[str, Tensor] = field(default_factory=dict)  # scalars; metrics show each divided by the count


class Objective(Protocol):
    """The function that a trainer minimises: the sum of the loss over a step's batches, divided by their count."""

    def count(self, batch: Batch) -> Tensor:
        """Number of trained tokens of a batch, a scalar int64.

        Needed before the forward pass: gradients of all batches of a step are divided by their common count.
        """
        ...

    def __call__(self, model: Transformer, batch: Batch) -> Loss:
        """Loss of a batch. With gradients disabled it is the evaluation's."""
        ...

    def compile(self) -> None:
        """Compile what is computed outside the model's blocks."""
        ...


class LanguageModeling:
    """Next-token prediction: cross entropy of each target, without those that are IGNORE_INDEX (padding)."""

    def __init__(self) -> None:
        self.kernel: Kernel = loss_and_gradient

    def compile(self) -> None:
        """Compile the loss and its gradient."""
        self.kernel = torch.compile(loss_and_gradient, dynamic=False)

    def count(self, batch: Batch) -> Tensor:
        """Number of targets with a loss."""
        return (batch.targets != IGNORE_INDEX).sum()

    def __call__(self, model: Transformer, batch: Batch) -> Loss:
        """Summed cross entropy in nats, without ever holding all logits where the model's output is a plain matrix."""
        return Loss(self.cross_entropy(model, batch), self.count(batch))

    def cross_entropy(self, model: Transformer, batch: Batch) -> Tensor:
        """Summed cross entropy of a batch, a scalar in nats."""
        targets = batch.targets
        output = model.output
        plain = not must_be_called(output, nn.Linear) and "bias" not in dict(output.named_parameters())
        if must_be_called(model, Transformer) or not plain:
            logits = model(batch.inputs, valid=batch.valid).float()  # (B, T, V)
            return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")
        hidden = model.hidden(batch.inputs, valid=batch.valid)  # (B, T, C)
        return cross_entropy_sum(hidden, output.weight, targets, self.kernel)


class LossModule(nn.Module):
    """A model and its objective as one module, whose forward is the loss: what DDP and FSDP wrap."""

    def __init__(self, model: Transformer, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The fields of Loss, as a tuple: FSDP looks for tensors in tuples and dictionaries only."""
        loss = self.objective(self.model, batch)
        return loss.sum, loss.count, dict(loss.figures)
