"""The experts of a mixture: E feed-forward networks, each computing only the tokens routed to it.

Shapes: N rows (a token once for each expert that it is routed to), E experts, C dim, F hidden_dim of an expert.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROW_MULTIPLE = 32  # on a CPU, each expert's rows are zero-padded to a multiple of this


class Experts(nn.Module):
    """E SwiGLU feed-forwards (arXiv 2002.05202) with stacked weights.

    Back ends: `loop` computes one expert after another; `grouped` calls F.grouped_mm on a GPU, without host
    synchronization. `choose_backend` chooses the grouped one where it is supported.
    """

    def __init__(self, n_experts: int, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(n_experts, dim, 2 * hidden_dim))  # (E, C, 2F), gate first
        self.down = nn.Parameter(torch.empty(n_experts, hidden_dim, dim))  # (E, F, C)
        self.excluded_from_compile = False
        self.backend: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = loop

    def forward(self, x: Tensor, counts: Tensor) -> Tensor:
        """(N, C) sorted by expert, and the number of rows of each expert, (E,) -> (N, C)."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        out: Tensor = self.backend(x, counts, self.gate_up, self.down)
        return out

    def choose_backend(self, device: str, dtype: torch.dtype) -> None:
        """Choose the back end for inputs of this device type and dtype. See Transformer.choose_cores."""
        self.backend = grouped if grouped_supports(self, device, dtype) is None else loop
        if self.excluded_from_compile and self.backend is loop:
            self.backend = torch.compiler.disable(loop)  # type: ignore[no-untyped-call]

    def exclude_from_compile(self) -> None:
        """Break the graph of torch.compile at the loop: the number of rows of each expert changes at every step, and
        each change would recompile. (A decorator would import torch's compiler in every program, 1 s.)
        """
        self.excluded_from_compile = True
        if self.backend is loop:
            self.backend = torch.compiler.disable(loop)  # type: ignore[no-untyped-call]


class ClampedExperts(Experts):
    """Experts with biases whose gates are clamped, of gpt-oss (arXiv 2508.10925).

    down((up(x) + 1) * gate(x) * sigmoid(alpha * gate(x))), with gate(x) at most `limit`, and up(x) between -limit and
    limit. The biases of all experts lie one after the other in a vector each. They are computed one after another.
    """

    def __init__(self, n_experts: int, dim: int, hidden_dim: int, *, alpha: float, limit: float) -> None:
        super().__init__(n_experts, dim, hidden_dim)
        self.alpha, self.limit = alpha, limit
        self.gate_up_bias = nn.Parameter(torch.zeros(n_experts * 2 * hidden_dim))  # (E * 2F,), gate first
        self.down_bias = nn.Parameter(torch.zeros(n_experts * dim))  # (E * C,)
        self.backend = self.compute

    def choose_backend(self, device: str, dtype: torch.dtype) -> None:
        self.backend = self.compute
        if self.excluded_from_compile:
            self.backend = torch.compiler.disable(self.compute)  # type: ignore[no-untyped-call]

    def exclude_from_compile(self) -> None:
        self.excluded_from_compile = True
        self.choose_backend("cpu", torch.float32)

    def compute(self, x: Tensor, counts: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        """Shapes as in Experts.forward."""
        positions = None
        rows = x
        if len(x) > ROW_MULTIPLE:
            positions, counts = pad_groups(counts)
            rows = x.new_zeros(int(counts.sum()), x.shape[1]).index_copy(0, positions, x)
        sizes = counts.tolist()
        experts = torch.arange(len(counts), device=x.device).repeat_interleave(counts)  # (N,) of each row
        hidden = grouped_product(rows, gate_up, sizes) + self.gate_up_bias.view(len(counts), -1)[experts].to(rows.dtype)
        gate, up = hidden.chunk(2, dim=-1)
        gate, up = gate.clamp(max=self.limit), up.clamp(-self.limit, self.limit)
        out = grouped_product((up + 1) * gate * torch.sigmoid(self.alpha * gate), down, sizes)
        out = out + self.down_bias.view(len(counts), -1)[experts].to(rows.dtype)
        return out if positions is None else out[positions]


def grouped_supports(experts: Experts, device: str, dtype: torch.dtype) -> str | None:
    """None where F.grouped_mm supports these experts, otherwise the reason why not."""
    if device != "cuda":
        return f"on {device} a loop is faster"
    if dtype != torch.bfloat16:
        return f"F.grouped_mm is for bfloat16, not {dtype}"
    widths = (experts.gate_up.shape[1], experts.gate_up.shape[2], experts.down.shape[1])
    if any(width % 8 for width in widths):
        return f"rows of {widths} numbers are not a multiple of 16 bytes"
    return None


def grouped(x: Tensor, counts: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """All experts in two grouped products, without host synchronization. Shapes as in Experts.forward."""
    if x.dtype != torch.bfloat16:  # such as sampling in float32 from a model that trains in bfloat16
        return loop(x, counts, gate_up, down)
    ends = counts.cumsum(0).to(torch.int32)  # (E,)
    gate, up = F.grouped_mm(x, gate_up.to(x.dtype), offs=ends).chunk(2, dim=-1)
    out: Tensor = F.grouped_mm(F.silu(gate) * up, down.to(x.dtype), offs=ends)
    return out


def loop(x: Tensor, counts: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """One expert after another. Shapes as in Experts.forward."""
    if len(x) <= ROW_MULTIPLE:
        return run_experts(x, counts.tolist(), gate_up, down)
    positions, padded_counts = pad_groups(counts)
    padded = x.new_zeros(int(padded_counts.sum()), x.shape[1]).index_copy(0, positions, x)
    return run_experts(padded, padded_counts.tolist(), gate_up, down)[positions]


def run_experts(x: Tensor, sizes: list[int], gate_up: Tensor, down: Tensor) -> Tensor:
    """Each expert on its own rows, (N, C) -> (N, C). sizes: rows of each expert."""
    gate, up = grouped_product(x, gate_up, sizes).chunk(2, dim=-1)
    return grouped_product(F.silu(gate) * up, down, sizes)


def pad_groups(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Pad each expert's rows to a multiple of ROW_MULTIPLE: the new index of each row, (N,), and the padded counts,
    (E,).

    The CPU's matrix library compiles a kernel for each shape, about 1 ms and 50 kB each. Without padding, almost every
    step had new shapes, which cost a quarter of its time.
    """
    padded_counts = (counts + ROW_MULTIPLE - 1) // ROW_MULTIPLE * ROW_MULTIPLE
    shift = (padded_counts - counts).cumsum(0) - (padded_counts - counts)  # (E,) by how much each expert's rows move
    return torch.arange(int(counts.sum()), device=counts.device) + shift.repeat_interleave(counts), padded_counts


def grouped_product(x: Tensor, weights: Tensor, sizes: list[int]) -> Tensor:
    """Multiply each group of rows by its own matrix: (N, C), (E, C, F), E group sizes -> (N, F), in x's dtype."""
    out: Tensor = GroupedProduct.apply(x, weights, sizes)  # type: ignore[no-untyped-call]
    return out


class GroupedProduct(torch.autograd.Function):
    """`grouped_product` with a manual backward: each matrix is cast and its gradient written while it is in the CPU
    cache. Autograd would cast all matrices, and stack all gradients, in separate passes over memory.
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
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weights = ctx.saved_tensors
        grad_x, grad_weights = torch.empty_like(x), torch.empty_like(weights)
        groups = zip(*(torch.split(rows, ctx.sizes) for rows in (x, grad_output, grad_x)), strict=True)
        for (rows, grad_out, place), weight, grad_weight in zip(groups, weights, grad_weights, strict=True):
            torch.mm(grad_out, weight.to(x.dtype).T, out=place)
            grad_weight.copy_(rows.T @ grad_out)  # zeros for an expert without rows
        return grad_x, grad_weights, None
