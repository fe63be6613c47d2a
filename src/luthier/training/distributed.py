"""Data-parallel training: each process gets its rows of every batch, and gradients are summed before the step.

    torchrun --nproc-per-node 2 -m luthier train book.txt --out runs/book

`torchrun` sets each process's rank in the environment. With the same settings, any number of processes computes the
same result, except for the order of summation.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from luthier.errors import LuthierError, UsageError, setting
from luthier.model.transformer import Transformer


@dataclass(frozen=True)
class World:
    """The processes of a run. rank: index of this process; local_rank: its index on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    device: str = "cpu"  # for collectives

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes and prints."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """Sum over all processes, in place (all-reduce)."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def any(self, value: bool) -> bool:
        """Whether the value is true in any process."""
        return value if self.size == 1 else bool(self.sum(torch.tensor(int(value), device=self.device)))

    def broadcast(self, value: Any) -> Any:
        """Broadcast rank 0's value."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """Values of all processes, by rank (all-gather)."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for all processes (barrier)."""
        if self.size > 1:
            dist.barrier()


ALONE = World()


@contextmanager
def process_group(device: torch.device) -> Iterator[World]:
    """The process group started by torchrun, with nccl on GPUs and gloo elsewhere; ALONE without torchrun."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if device.type == "cuda":
        torch.cuda.set_device(local_rank)  # so that "cuda" is this process's own
    else:  # torchrun limits each process to one thread
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_size))
    store, rank, size = next(rendezvous("env://"))
    # torchrun may keep its store over a restart, with the addresses of dead processes
    store = PrefixStore(f"restart-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=store, rank=rank, world_size=size)
    try:
        yield World(rank, size, local_rank, local_size, device.type)
    except RuntimeError as error:  # gloo has no error class of its own
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise LuthierError(f"process {rank} lost another process, see its own error") from error
        raise
    finally:
        dist.destroy_process_group()


def restarted() -> bool:
    """Whether torchrun has restarted the processes after a failure (--max-restarts)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def replicate(objective: nn.Module) -> nn.Module:
    """Replicate the weights in each process, averaging gradients as they are computed (DDP, arXiv 2006.15704)."""
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(objective, forward_sync_buffers=False, gradient_as_bucket_view=True)


def shard(objective: nn.Module, model: Transformer) -> nn.Module:
    """Shard weights, gradients and optimizer state among processes, gathering each block when needed.

    FSDP2 (arXiv 2304.11277). The optimizer must be created afterwards.
    """
    from torch.distributed.fsdp import fully_shard

    for block in model.layers:
        fully_shard(block)
    fully_shard(objective)
    return objective


def full_tensor(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor (collective: every process must call it)."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def distribute_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Distribute a full tensor with the sharding of another."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def choose_strategy(asked: str, parameters: int, memory: int) -> Literal["ddp", "fsdp"]:
    """DDP or FSDP: as requested, or FSDP if a replica does not fit into the `memory` (bytes) of a device.

    Weights, gradients and AdamW's two moments take 16 bytes per parameter; a fifth is reserved for activations.
    """
    if asked == "auto":
        return "fsdp" if 16 * parameters > 0.8 * memory else "ddp"
    return "ddp" if asked == "ddp" else "fsdp"


def check(world: World, batch_size: int, optimizer: str, strategy: str) -> None:
    """Raise a UsageError for settings that multi-process training does not support."""
    if world.size == 1:
        return
    if batch_size % world.size:
        raise UsageError(
            f"{setting('batch_size')} {batch_size} cannot be shared by {world.size} processes: take a multiple"
        )
    if strategy == "fsdp" and optimizer == "muon":
        raise UsageError(
            f"Muon needs whole matrices, and FSDP cuts them: take {setting('optimizer', 'adamw')}, or "
            f"{setting('parallel', 'ddp')}"
        )
