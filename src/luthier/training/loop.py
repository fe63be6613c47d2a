"""The training loop.

    trainer = Trainer(model, batches, settings, total_steps=1000)
    while trainer.step < trainer.total_steps:
        result = trainer.train_step()

It is independent of files, console and tokenizer: see run/ for those.

Shapes: B batch, T tokens, V vocab_size.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from luthier.data.batches import Batch, BatchSource
from luthier.errors import LuthierError, setting
from luthier.model.dropout import reseed
from luthier.model.loss import IGNORE, Kernel, cross_entropy_sum, loss_and_gradient
from luthier.model.overrides import must_be_called
from luthier.model.seeds import seeded
from luthier.model.transformer import Transformer
from luthier.training.balance import Balancer
from luthier.training.checkpoint import optimizer_tensors, restore_optimizers
from luthier.training.distributed import ALONE, World, replicate, shard, whole
from luthier.training.machine import synchronize
from luthier.training.optimizers import build_optimizers, clip_gradients, gradient_norm, set_learning_rate
from luthier.training.schedule import Anchor, learning_rate_factor
from luthier.training.settings import Settings


@dataclass(frozen=True)
class StepResult:
    """Result of one optimizer step."""

    loss: float  # nats per token
    gradient_norm: float  # before clipping
    learning_rate: float
    tokens: int  # number of tokens with loss
    seconds: float
    loads: list[list[float]] = field(default_factory=list)  # fraction of tokens per expert, a list per mixture layer


class NonFiniteError(LuthierError):
    """NaN or infinite loss or gradient; the state is as before the step."""


class Trainer:
    """Trains a model: its optimizers, and its position in the data and the schedule."""

    def __init__(
        self,
        model: Transformer,
        batches: BatchSource,
        settings: Settings,
        total_steps: int,
        dtype: torch.dtype = torch.float32,
        world: World = ALONE,
    ) -> None:
        """dtype: of the matrix products; weights and optimizer state keep theirs."""
        self.model, self.batches, self.settings, self.total_steps = model, batches, settings, total_steps
        self.dtype = dtype
        self.device = model.embedding.weight.device
        self.world = world
        model.activation_checkpointing = settings.activation_checkpointing
        self.objective: nn.Module = Objective(self)
        self.sharded = world.size > 1 and settings.parallel == "fsdp"
        if world.size > 1:
            self.objective = shard(self.objective, model) if self.sharded else replicate(self.objective)
        self.optimizers = build_optimizers(model, settings)
        self.balancer = Balancer(model, settings, world)
        self.generator = seeded(settings.seed)  # for dropout
        self.kernel: Kernel = loss_and_gradient
        self.step = 0
        self.tokens = 0
        self.anchor: Anchor | None = None  # of the schedule `continue`

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the matrix products; weights and optimizer state keep theirs."""
        return self._dtype

    @dtype.setter
    def dtype(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self.model.choose_cores(dtype)

    def compile(self) -> None:
        """Compile each block and the loss. Blocks of the same structure share one compilation."""
        self.model.compile_blocks(dynamic=False)
        self.kernel = torch.compile(loss_and_gradient, dynamic=False)

    def train_step(self) -> StepResult:
        """One optimizer step over `accumulation` batches. Raises NonFiniteError, with the state as before the step."""
        start = time.perf_counter()
        before = self.batches.state(), self.generator.get_state()
        self.model.train()
        batches = [self.batches.next_batch().to(self.device) for _ in range(self.settings.accumulation)]
        # over all batches of the step: rows with more padding must not weigh more
        tokens = int(self.world.sum(torch.stack([(batch.targets != IGNORE).sum() for batch in batches]).sum()))
        losses = []
        for batch in batches:
            reseed(self.model, self.generator, self.world.rank)
            with self.synchronized(last=batch is batches[-1]):
                loss = self.objective(batch) / max(1, tokens)
                (loss * self.world.size).backward()  # DDP and FSDP average gradients over processes
            losses.append(loss.detach())
        losses = list(self.world.sum(torch.stack(losses)))
        total = torch.stack(losses).sum()
        norm = whole(gradient_norm(self.model))
        if not torch.isfinite(norm + total):
            raise self.undo(losses, norm, *before)
        if self.settings.clip:
            clip_gradients(self.model, norm, self.settings.clip)
        factor = learning_rate_factor(self.settings, self.step, self.total_steps, self.anchor)
        loads = self.balancer.update()
        set_learning_rate(self.optimizers, factor)
        for optimizer in self.optimizers:
            optimizer.step()
        self.model.zero_grad()
        synchronize(self.device)
        self.step += 1
        self.tokens += tokens
        seconds = time.perf_counter() - start
        return StepResult(total.item(), norm.item(), factor * self.settings.learning_rate, tokens, seconds, loads)

    @contextmanager
    def synchronized(self, *, last: bool) -> Iterator[None]:
        """Synchronize gradients between processes in the step's last backward pass only."""
        if isinstance(self.objective, DistributedDataParallel) and not last:
            with self.objective.no_sync():
                yield
            return
        if self.sharded:
            cast("Any", self.objective).set_requires_gradient_sync(last)
        yield

    def undo(self, losses: list[Tensor], norm: Tensor, place: dict[str, Any], generator: Tensor) -> NonFiniteError:
        """Restore the state before the step. Returns the error that names the step and the faulty batch, counted from
        1.
        """
        self.model.zero_grad()
        self.balancer.forget()
        self.batches.restore(place)
        self.generator.set_state(generator)
        first, last = place["batches"] + 1, place["batches"] + len(losses)
        wrong = [number for number, loss in enumerate(losses, first) if not loss.isfinite()]
        if wrong:
            what = f"the loss of batch {wrong[0]} is {losses[wrong[0] - first].item()}"
        else:
            which = f"batch {first}" if first == last else f"batches {first} to {last}"
            what = f"the norm of the gradient of {which} is {norm.item()}"
        return NonFiniteError(
            f"step {self.step + 1}: {what}: lower {setting('learning_rate')}, raise {setting('warmup')}, or "
            f"lower {setting('clip')}"
        )

    def skip(self) -> None:
        """Skip the batches of the next step."""
        for _ in range(self.settings.accumulation):
            self.batches.next_batch()

    def loss_sum(self, batch: Batch) -> Tensor:
        """Summed loss of a batch, in nats."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            model, targets = self.model, batch.targets
            if must_be_called(model, Transformer) or must_be_called(model.output, nn.Linear):
                logits = model(batch.inputs, valid=batch.valid).float()  # (B, T, V)
                return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")
            hidden = model.hidden(batch.inputs, valid=batch.valid)  # (B, T, C)
            return cross_entropy_sum(hidden, model.output.weight, targets, self.kernel)

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch]) -> float:
        """Mean loss over the batches of all processes, in nats per token, without dropout."""
        self.model.eval()
        total, tokens = 0.0, 0
        for batch in batches:
            on_device = batch.to(self.device)
            total += self.objective(on_device).item()
            tokens += int((on_device.targets != IGNORE).sum())
        sums = self.world.sum(torch.tensor([total, tokens], dtype=torch.float64, device=self.device))
        return float(sums[0] / sums[1].clamp(min=1))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Trainer state without weights: tensors and JSON metadata."""
        tensors = {name: whole(tensor) for name, tensor in optimizer_tensors(self.optimizers).items()}
        tensors["generator"] = self.generator.get_state()
        anchor = None if self.anchor is None else list(self.anchor)
        return tensors, {"step": self.step, "tokens": self.tokens, "batches": self.batches.state(), "anchor": anchor}

    def restore(self, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
        """Restore a state; the weights saved with it are loaded separately."""
        self.batches.restore(record["batches"])
        restore_optimizers(self.optimizers, tensors)
        self.generator.set_state(tensors["generator"])
        self.step, self.tokens = record["step"], record["tokens"]
        self.anchor = Anchor(*record["anchor"]) if record.get("anchor") else None


class Objective(nn.Module):
    """The summed loss as a module, so that DDP and FSDP can wrap it."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self.model = trainer.model
        self.loss_sum = trainer.loss_sum

    def forward(self, batch: Batch) -> Tensor:
        """Summed loss of a batch, a scalar in nats."""
        return self.loss_sum(batch)
