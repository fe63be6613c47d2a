"""Experts: E feed-forwards of which each works on its own tokens only.

Shapes: N rows (tokens, one for each expert that they are sent to), E experts, C dim, F hidden_dim of an expert.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 32  # on a CPU an expert's rows are filled up with zeros to a multiple of this


class Experts(nn.Module):
    """E SwiGLU feed-forwards (arXiv 2002.05202) in two stacked weights.

    Two back ends: `loop` multiplies one expert after another; `grouped` hands all of them to a kernel of the GPU and
    never waits for it. `choose_backend` takes the grouped one where it is supported.
    """

    def __init__(self, n_experts: int, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(n_experts, dim, 2 * hidden_dim))  # (E, C, 2F), gate first
        self.down = nn.Parameter(torch.empty(n_experts, hidden_dim, dim))  # (E, F, C)
        self.uncompiled = False
        self.backend = loop

    def forward(self, x: Tensor, counts: Tensor) -> Tensor:
        """(N, C) sorted by expert, and how many rows each expert has, (E,), -> (N, C)."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        out: Tensor = self.backend(x, counts, self.gate_up, self.down)
        return out

    def choose_backend(self, device: str, dtype: torch.dtype) -> None:
        """Choose for rows of this device type and number type. See Transformer.choose_cores."""
        self.backend = grouped if grouped_supports(self, device, dtype) is None else loop
        if self.uncompiled and self.backend is loop:
            self.backend = torch.compiler.disable(loop)  # type: ignore[no-untyped-call]

    def leave_uncompiled(self) -> None:
        """Let compiled code leave its graph at the loop: how many rows each expert has changes at every step, and each
        change would be compiled anew. (Not a decorator, which would load torch's compiler in every program: 1 s.)
        """
        self.uncompiled = True
        if self.backend is loop:
            self.backend = torch.compiler.disable(loop)  # type: ignore[no-untyped-call]


def grouped_supports(experts: Experts, device: str, dtype: torch.dtype) -> str | None:
    """None where F.grouped_mm can do it, or why not."""
    if device != "cuda":
        return f"on {device} a loop is faster"
    if dtype != torch.bfloat16:
        return f"F.grouped_mm is for bfloat16, not {dtype}"
    widths = (experts.gate_up.shape[1], experts.gate_up.shape[2], experts.down.shape[1])
    if any(width % 8 for width in widths):
        return f"rows of {widths} numbers are no multiple of 16 bytes"
    return None


def grouped(x: Tensor, counts: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """All experts in two calls, with no host synchronization. Shapes as Experts.forward."""
    if x.dtype != torch.bfloat16:  # such as a sample in float32 of a model that trains in bfloat16
        return loop(x, counts, gate_up, down)
    ends = counts.cumsum(0).to(torch.int32)  # (E,)
    gate, up = F.grouped_mm(x, gate_up.to(x.dtype), offs=ends).chunk(2, dim=-1)
    out: Tensor = F.grouped_mm(F.silu(gate) * up, down.to(x.dtype), offs=ends)
    return out


def loop(x: Tensor, counts: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """One expert after another. Shapes as Experts.forward."""
    if len(x) <= ROWS:
        return each(x, counts.tolist(), gate_up, down)
    places, room = spread(counts)
    padded = x.new_zeros(int(room.sum()), x.shape[1]).index_copy(0, places, x)
    return each(padded, room.tolist(), gate_up, down)[places]


def each(x: Tensor, sizes: list[int], gate_up: Tensor, down: Tensor) -> Tensor:
    """Every expert on its own rows, (N, C) -> (N, C)."""
    gate, up = grouped_product(x, gate_up, sizes).chunk(2, dim=-1)
    return grouped_product(F.silu(gate) * up, down, sizes)


def spread(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Fill each expert's rows up to a multiple of ROWS: the new place of every row, (N,), and the room of each, (E,).

    A CPU library compiles its products for their shapes, for about 1 ms and 50 kB each. Without this, new shapes came
    at almost every step: they cost a quarter of its time.
    """
    room = (counts + ROWS - 1) // ROWS * ROWS
    shift = (room - counts).cumsum(0) - (room - counts)  # (E,) how far each expert's rows move
    return torch.arange(int(counts.sum()), device=counts.device) + shift.repeat_interleave(counts), room


def grouped_product(x: Tensor, weights: Tensor, sizes: list[int]) -> Tensor:
    """Each group of rows times a matrix of its own: (N, C), (E, C, F), E numbers of rows -> (N, F), in x's type."""
    out: Tensor = GroupedProduct.apply(x, weights, sizes)  # type: ignore[no-untyped-call]
    return out


class GroupedProduct(torch.autograd.Function):
    """Written out so that each matrix is cast, and its gradient put in its place, while it is in the cache: autograd
    would cast all of them, and stack all gradients, in passes over the memory.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, sizes: list[int]) -> Tensor:
        ctx.save_for_backward(x, weights)
        ctx.sizes = sizes
        out = x.new_empty(len(x), weights.shape[2])
        for rows, weight, place in zip(torch.split(x, sizes), weights, torch.split(out, sizes), strict=True):
            torch.mm(rows, weight.to(x.dtype), out=place)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weights = ctx.saved_tensors
        by_x, by_weights = torch.empty_like(x), torch.empty_like(weights)
        groups = zip(*(torch.split(rows, ctx.sizes) for rows in (x, gradient, by_x)), strict=True)
        for (rows, by_out, place), weight, by_weight in zip(groups, weights, by_weights, strict=True):
            torch.mm(by_out, weight.to(x.dtype).T, out=place)
            by_weight.copy_(rows.T @ by_out)  # zeros for an expert without rows
        return by_x, by_weights, None
