"""Multi-head attention with grouped queries (arXiv 1706.03762, 2305.13245).

Shapes: B batch, T tokens, S tokens that are seen (cached and new), C dim, H query heads, K key heads, D head_dim,
E value_dim.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor, nn

from luthier.errors import UsageError, of_model
from luthier.model.cache import LayerCache
from luthier.model.context import AttentionContext
from luthier.model.cores.choice import choose_core
from luthier.model.cores.core import Need
from luthier.model.dropout import Dropout
from luthier.model.hook_point import HookPoint
from luthier.model.mask import MaskRule, build_mask, causal, first_slot
from luthier.model.rope import LengthRope, Rope


class Attention(nn.Module):
    """Each token asks (query) all that it may see (key) and takes a mix of what they say (value).

    n_kv_heads: heads of keys and values, each shared by H / K query heads; n_heads unless given. value_dim: width of
    a value, head_dim unless given. qk_steps: modules applied to q and k in order before the scores (rotary positions,
    norms, temperature): see rope.py. mask: the rule of what a query sees. scale: of the scores, 1 / sqrt(head_dim)
    unless given. softcap, sinks: see AttentionCore. dropout: probability of dropping an attention weight.

    Hook points: `weights` gets the attention weights (B, H, T, S) where `choose_cores(weights=True)` was called;
    `heads` the result of each head, (B, T, H, E).
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
        if head_dim is None and dim % n_heads:
            raise UsageError(
                f"{of_model('dim')} {dim} does not divide into {of_model('n_heads')} {n_heads}: take a "
                f"multiple of {n_heads}"
            )
        if n_heads % self.n_kv_heads:
            raise UsageError(
                f"{of_model('n_heads')} {n_heads} is not a multiple of {of_model('n_kv_heads')} "
                f"{self.n_kv_heads}: make it one"
            )
        self.head_dim = dim // n_heads if head_dim is None else head_dim
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
        """(B, T, C) -> (B, T, C). context: what the Transformer built for all layers of this kind, or `context`."""
        B, T, _ = x.shape
        q = self.query(x).view(B, T, self.n_heads, self.head_dim).transpose(1, 2)  # (B, H, T, D)
        k = self.key(x).view(B, T, self.n_kv_heads, self.head_dim).transpose(1, 2)  # (B, K, T, D)
        v = self.value(x).view(B, T, self.n_kv_heads, self.value_dim).transpose(1, 2)  # (B, K, T, E)
        for step in self.qk_steps:
            q, k = step(q, k, context)
        if cache is not None:
            k, v = cache.append(k, v, first=context.first_key)  # (B, K, S, D), (B, K, S, E)
        core = self.training_core if self.training else self.core
        mixed = core(
            q, k, v, context.mask,
            scale=self.scale, softcap=self.softcap, sinks=self.sinks, dropout=self.dropout, weights=self.weights,
        )  # fmt: skip
        heads = self.heads(mixed.transpose(1, 2))  # (B, T, H, E)
        out: Tensor = self.output(heads.reshape(B, T, self.n_heads * self.value_dim))
        return out

    def choose_cores(self, device: str = "cpu", dtype: torch.dtype = torch.float32, *, weights: bool = False) -> None:
        """Choose the cores of training and of evaluation for q, k and v of this device type and number type.

        weights: the attention weights must pass through the hook point `weights`. See Transformer.choose_cores.
        """
        need = {"weights": weights, "softcap": self.softcap is not None, "sinks": self.sinks is not None}
        self.core = choose_core(Need(device=device, dtype=dtype, **need))
        self.training_core = choose_core(
            Need(training=True, dropout=self.dropout.p, device=device, dtype=dtype, **need)
        )

    def make_cache(self, capacity: int) -> LayerCache:
        """A cache for texts of up to so many tokens, which drops what the layer's mask never shows again."""
        return LayerCache(capacity, self.mask.window)

    @property
    def rope(self) -> Rope | LengthRope | None:
        """The rotary positions among the steps on q and k."""
        return next((step for step in self.qk_steps if isinstance(step, Rope | LengthRope)), None)

    @property
    def kind(self) -> Hashable:
        """What the context depends on: layers of equal kinds share it."""
        return self.mask, None if self.rope is None else self.rope.kind

    def context(
        self, key_positions: Tensor, n_queries: int | None = None, valid: Tensor | None = None
    ) -> AttentionContext:
        """What `forward` needs beside x. The last n_queries (all unless given) of the S keys are the new tokens.

        key_positions (B or 1, S), counted from 0. valid (B, S) bool, False = padding.
        """
        n_queries = key_positions.shape[1] if n_queries is None else n_queries
        positions = key_positions[:, -n_queries:]
        first = first_slot(self.mask, key_positions, n_queries, valid)
        mask = build_mask(self.mask, key_positions[:, first:], n_queries, None if valid is None else valid[:, first:])
        angles = None if self.rope is None else self.rope.angles(positions)
        return AttentionContext(positions, angles, mask, first)
