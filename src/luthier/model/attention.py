"""Multi-head attention with grouped queries (arXiv 1706.03762, 2305.13245).

Shapes: B batch, T new tokens, S keys (cached and new), C dim, H query heads, K key heads, D head_dim, E value_dim.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor, nn

from luthier.errors import UsageError, of_model
from luthier.model.cache import LayerCache
from luthier.model.context import AttentionContext
from luthier.model.cores.choice import choose_core
from luthier.model.cores.core import CoreRequirements
from luthier.model.dropout import Dropout
from luthier.model.hook_point import HookPoint
from luthier.model.mask import MaskRule, build_mask, causal, first_visible_key
from luthier.model.rope import LengthRope, PartialRope, Rope


class Attention(nn.Module):
    """Scaled dot-product attention over query, key and value projections, followed by an output projection.

    n_kv_heads: key and value heads, each shared by H / K query heads; n_heads unless given. value_dim: width of a
    value head, head_dim unless given. qk_steps: modules applied to q and k in order before the scores (RoPE, norms,
    temperature): see rope.py. mask: the rule of which keys a query sees. scale: factor of the scores,
    1 / sqrt(head_dim) unless given. softcap, sinks: see AttentionCore. dropout: probability of dropping an attention
    weight.

    Hook points: `weights` receives the attention weights (B, H, T, S) after `choose_cores(weights=True)`; `heads` the
    output of each head, (B, T, H, E).
    """

    def __init__(
        self,
        dim: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        *,
        value_dim: int | None = None,
        qk_steps: Sequence[nn.Module] = (),
        mask: MaskRule = causal,
        scale: float | None = None,
        softcap: float | None = None,
        sinks: bool = False,
        bias: bool = False,
        out_bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads = n_heads, n_heads if n_kv_heads is None else n_kv_heads
        if n_heads % self.n_kv_heads:
            raise UsageError(
                f"{of_model('n_heads')} {n_heads} is not a multiple of {of_model('n_kv_heads')} "
                f"{self.n_kv_heads}: make it one"
            )
        self.head_dim = head_width(dim, n_heads, head_dim)
        self.value_dim = self.head_dim if value_dim is None else value_dim
        self.mask, self.scale = mask, self.head_dim**-0.5 if scale is None else scale
        self.softcap = softcap
        self.query = nn.Linear(dim, self.n_heads * self.head_dim, bias=bias)
        self.key = nn.Linear(dim, self.n_kv_heads * self.head_dim, bias=bias)
        self.value = nn.Linear(dim, self.n_kv_heads * self.value_dim, bias=bias)
        self.output = nn.Linear(self.n_heads * self.value_dim, dim, bias=out_bias)
        self.sinks = nn.Parameter(torch.zeros(n_heads)) if sinks else None
        self.qk_steps = nn.ModuleList(qk_steps)
        self.dropout = Dropout(dropout)
        self.weights, self.heads = HookPoint(), HookPoint()
        self.choose_cores()

    def forward(self, x: Tensor, context: AttentionContext, cache: LayerCache | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C). context: from the method `context`; layers with equal `context_key` share one."""
        B, T, _ = x.shape
        q = self.query(x).view(B, T, self.n_heads, self.head_dim).transpose(1, 2)  # (B, H, T, D)
        k = self.key(x).view(B, T, self.n_kv_heads, self.head_dim).transpose(1, 2)  # (B, K, T, D)
        v = self.value(x).view(B, T, self.n_kv_heads, self.value_dim).transpose(1, 2)  # (B, K, T, E)
        for step in self.qk_steps:
            q, k = step(q, k, context)
        if cache is not None:
            k, v = cache.append(k, v, first=context.first_key)  # (B, K, S, D), (B, K, S, E)
        core = self.training_core if self.training else self.core
        attended = core(
            q, k, v, context.mask,
            scale=self.scale, softcap=self.softcap, sinks=self.sinks, dropout=self.dropout, weights=self.weights,
        )  # fmt: skip
        heads = self.heads(attended.transpose(1, 2))  # (B, T, H, E)
        out: Tensor = self.output(heads.reshape(B, T, self.n_heads * self.value_dim))
        return out

    def choose_cores(self, device: str = "cpu", dtype: torch.dtype = torch.float32, *, weights: bool = False) -> None:
        """Choose the cores for training and evaluation, for q, k and v of this device type and dtype.

        weights: attention weights must pass through the hook point `weights`. See Transformer.choose_cores.
        """
        need = {"weights": weights, "softcap": self.softcap is not None, "sinks": self.sinks is not None}
        self.core = choose_core(CoreRequirements(device=device, dtype=dtype, **need))
        self.training_core = choose_core(
            CoreRequirements(training=True, dropout=self.dropout.p, device=device, dtype=dtype, **need)
        )

    def make_cache(self, capacity: int) -> LayerCache:
        """A cache for up to `capacity` tokens, which drops keys that the layer's mask never makes visible again."""
        return LayerCache(capacity, self.mask.window)

    @property
    def rope(self) -> Rope | LengthRope | None:
        """The rotary embedding among `qk_steps`, or None."""
        steps = (step.rope if isinstance(step, PartialRope) else step for step in self.qk_steps)
        return next((step for step in steps if isinstance(step, Rope | LengthRope)), None)

    @property
    def context_key(self) -> Hashable:
        """What the context depends on: layers with equal keys share one context."""
        return self.mask, None if self.rope is None else self.rope.angles_key

    def context(
        self, key_positions: Tensor, n_queries: int | None = None, valid: Tensor | None = None
    ) -> AttentionContext:
        """Build the context of a forward pass. The last n_queries (all unless given) of the S keys are the new tokens.

        key_positions (B or 1, S), counted from 0. valid (B, S) bool, False = padding.
        """
        n_queries = key_positions.shape[1] if n_queries is None else n_queries
        positions = key_positions[:, -n_queries:]
        first = first_visible_key(self.mask, key_positions, n_queries, valid)
        mask = build_mask(self.mask, key_positions[:, first:], n_queries, None if valid is None else valid[:, first:])
        angles = None if self.rope is None else self.rope.angles(positions)
        return AttentionContext(positions, angles, mask, first)


def head_width(dim: int, n_heads: int, head_dim: int | None = None) -> int:
    """Width of a head: `head_dim`, or dim / n_heads where that is None. Raises a UsageError for a fraction."""
    if head_dim is None and dim % n_heads:
        raise UsageError(
            f"{of_model('dim')} {dim} does not divide into {of_model('n_heads')} {n_heads}: "
            f"take a multiple of {n_heads}"
        )
    return dim // n_heads if head_dim is None else head_dim
