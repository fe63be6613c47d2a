"""The training loop.

    trainer = Trainer(model, batches, settings, total_steps=1000)
    while trainer.step < trainer.total_steps:
        result = trainer.train_step()

It is independent of files, console and tokenizer: see run/ for those.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from luthier.data.batches import Batch, BatchSource
from luthier.errors import LuthierError, setting
from luthier.model.dropout import reseed
from luthier.model.seeds import seeded
from luthier.model.transformer import Transformer
from luthier.training.balance import Balancer
from luthier.training.checkpoint import optimizer_tensors, restore_optimizers
from luthier.training.distributed import ALONE, World, full_tensor, replicate, shard
from luthier.training.machine import synchronize
from luthier.training.objective import LanguageModeling, Loss, LossModule, Objective
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
    figures: dict[str, float] = field(default_factory=dict)  # the objective's own, per trained token


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
        objective: Objective | None = None,
    ) -> None:
        """dtype: of the matrix products; weights and optimizer state keep theirs. objective: None: LanguageModeling."""
        self.model, self.batches, self.settings, self.total_steps = model, batches, settings, total_steps
        self.dtype = dtype
        self.device = model.embedding.weight.device
        self.world = world
        model.activation_checkpointing = settings.activation_checkpointing
        self.objective: Objective = LanguageModeling() if objective is None else objective
        self.loss_module: nn.Module = LossModule(model, self.objective)
        self.sharded = world.size > 1 and settings.parallel == "fsdp"
        if world.size > 1:
            self.loss_module = shard(self.loss_module, model) if self.sharded else replicate(self.loss_module)
        self.optimizers = build_optimizers(model, settings)
        self.balancer = Balancer(model, settings, world)
        self.generator = seeded(settings.seed)  # for dropout
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
        """Compile each block and the objective. Blocks of the same structure share one compilation."""
        self.model.compile_blocks(dynamic=False)
        self.objective.compile()

    def train_step(self) -> StepResult:
        """One optimizer step over `gradient_accumulation_steps` batches.

        Raises NonFiniteError, with the state as before the step.
        """
        start = time.perf_counter()
        before = self.batches.state(), self.generator.get_state()
        self.model.train()
        batches = [self.batches.next_batch().to(self.device) for _ in range(self.settings.gradient_accumulation_steps)]
        # over all batches of the step: rows with more padding must not weigh more
        tokens = int(self.world.sum(torch.stack([self.objective.count(batch) for batch in batches]).sum()))
        losses, figures = [], Sums()
        for batch in batches:
            reseed(self.model, self.generator, self.world.rank)
            with self.synchronized(last=batch is batches[-1]):
                computed = self.loss(batch)
                loss: Any = computed.sum / max(1, tokens)
                (loss * self.world.size).backward()  # DDP and FSDP average gradients over processes
            losses.append(loss.detach())
            figures.add(computed.figures)
        losses = list(self.world.sum(torch.stack(losses)))
        total = torch.stack(losses).sum()
        norm = full_tensor(gradient_norm(self.model))
        if not torch.isfinite(norm + total):
            raise self.undo(losses, norm, *before)
        if self.settings.max_grad_norm:
            clip_gradients(self.model, norm, self.settings.max_grad_norm)
        factor = learning_rate_factor(self.settings, self.step, self.total_steps, self.anchor)
        loads = self.balancer.update()
        set_learning_rate(self.optimizers, factor)
        for optimizer in self.optimizers:
            optimizer.step()
        self.model.zero_grad()
        synchronize(self.device)
        self.step += 1
        self.tokens += tokens
        rate, means = factor * self.settings.learning_rate, figures.means(tokens, self.world)
        return StepResult(total.item(), norm.item(), rate, tokens, time.perf_counter() - start, loads, means)

    @contextmanager
    def synchronized(self, *, last: bool) -> Iterator[None]:
        """Synchronize gradients between processes in the step's last backward pass only."""
        if isinstance(self.loss_module, DistributedDataParallel) and not last:
            with self.loss_module.no_sync():
                yield
            return
        if self.sharded:
            cast("Any", self.loss_module).set_requires_gradient_sync(last)
        yield

    def undo(self, losses: list[Tensor], norm: Tensor, place: dict[str, Any], generator: Tensor) -> NonFiniteError:
        """Restore the state before the step. Returns the error that says what was not finite."""
        self.model.zero_grad()
        self.balancer.forget()
        self.batches.restore(place)
        self.generator.set_state(generator)
        return NonFiniteError(
            f"step {self.step + 1}: {cause(losses, norm, place['batches'] + 1)}: lower {setting('learning_rate')}, "
            f"raise {setting('warmup')}, or lower {setting('max_grad_norm')}"
        )

    def skip(self) -> None:
        """Skip the batches of the next step."""
        for _ in range(self.settings.gradient_accumulation_steps):
            self.batches.next_batch()

    def loss(self, batch: Batch) -> Loss:
        """Loss of a batch that is on the trainer's device."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return Loss(*self.loss_module(batch))

    def evaluate(self, batches: Iterable[Batch]) -> float:
        """Mean loss over the batches of all processes, in nats per token, without dropout."""
        return self.measure(batches)["loss"]

    @torch.no_grad()
    def measure(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Mean loss, as `evaluate` returns it, and mean of each of the objective's figures."""
        self.model.eval()
        total, tokens, figures = 0.0, 0, Sums()
        for batch in batches:
            computed = self.loss(batch.to(self.device))
            total += computed.sum.item()
            tokens += int(computed.count)
            figures.add(computed.figures)
        sums = self.world.sum(torch.tensor([total, tokens], dtype=torch.float64, device=self.device))
        return {"loss": float(sums[0] / sums[1].clamp(min=1)), **figures.means(int(sums[1]), self.world)}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Trainer state without weights: tensors and JSON metadata."""
        tensors = {name: full_tensor(tensor) for name, tensor in optimizer_tensors(self.optimizers).items()}
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


def cause(losses: list[Tensor], norm: Tensor, first: int) -> str:
    """What was NaN or infinite in a step: the loss of a batch, or the gradient. first: number of its first batch."""
    for number, loss in enumerate(losses, first):
        if not loss.isfinite():
            return f"the loss of batch {number} is {loss.item()}"
    last = first + len(losses) - 1
    which = f"batch {first}" if first == last else f"batches {first} to {last}"
    return f"the norm of the gradient of {which} is {norm.item()}"


class Sums:
    """Sums of an objective's figures over batches."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def add(self, figures: Mapping[str, Tensor]) -> None:
        """Add those of a batch."""
        for name, value in figures.items():
            self.tensors[name] = value.detach() + self.tensors.get(name, 0)

    def means(self, count: int, world: World) -> dict[str, float]:
        """Each divided by the number of tokens, over all processes."""
        return {name: float(world.sum(value)) / max(1, count) for name, value in self.tensors.items()}
