"""Multi-head attention with grouped queries (arXiv 1706.03762, 2305.13245).

Shapes: B batch, T tokens, S tokens that are seen (cached and new), C dim, H query heads, K key heads, D head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luthier.errors import UsageError
from luthier.model.cache import LayerCache
from luthier.model.dropout import Dropout
from luthier.model.mask import MaskRule, build_mask, causal

MOST_SCORES = 1024 * 1024  # of one head
QUERIES_AT_ONCE = 256


class Attention(nn.Module):
    """Each token asks (query) all that it may see (key) and takes a mix of what they say (value).

    n_kv_heads: heads of keys and values, each shared by H / K query heads; n_heads unless given.
    qk_steps: modules applied in order to q and k before the scores (positions, norms; see position.py).
    mask: the rule of what a query sees. scale: of the scores, 1 / sqrt(head_dim) unless given.
    """

    def __init__(
        self,
        dim: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        *,
        qk_steps: Sequence[nn.Module] = (),
        mask: MaskRule = causal,
        scale: float | None = None,
        bias: bool = False,
        out_bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads = n_heads, n_heads if n_kv_heads is None else n_kv_heads
        if head_dim is None and dim % n_heads:
            raise UsageError(f"dim {dim} does not divide into n_heads {n_heads}: take a multiple of {n_heads}")
        if n_heads % self.n_kv_heads:
            raise UsageError(f"n_heads {n_heads} is not a multiple of n_kv_heads {self.n_kv_heads}: make it one")
        self.head_dim = dim // n_heads if head_dim is None else head_dim
        self.mask, self.scale = mask, self.head_dim**-0.5 if scale is None else scale
        self.query = nn.Linear(dim, self.n_heads * self.head_dim, bias=bias)
        self.key = nn.Linear(dim, self.n_kv_heads * self.head_dim, bias=bias)
        self.value = nn.Linear(dim, self.n_kv_heads * self.head_dim, bias=bias)
        self.output = nn.Linear(self.n_heads * self.head_dim, dim, bias=out_bias)
        self.qk_steps = nn.ModuleList(qk_steps)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        cache: LayerCache | None = None,
        mask: Tensor | None = None,
        *,
        first: int = 0,
    ) -> Tensor:
        """(B, T, C) -> (B, T, C).

        positions (B or 1, T). first: of the cache's slots, those before it are seen by no query here. mask (B or 1, 1,
        T, S) bool, of the S tokens from there on: what the Transformer built once for all layers of this rule; None:
        plain causal attention within x, or a single new token that sees all of them.
        """
        B, T, _ = x.shape
        q = self.query(x).view(B, T, self.n_heads, self.head_dim).transpose(1, 2)  # (B, H, T, D)
        k = self.key(x).view(B, T, self.n_kv_heads, self.head_dim).transpose(1, 2)  # (B, K, T, D)
        v = self.value(x).view(B, T, self.n_kv_heads, self.head_dim).transpose(1, 2)
        for step in self.qk_steps:
            q, k = step(q, k, positions)
        if cache is not None:
            k, v = cache.append(k, v, first, self.mask.reach)  # (B, K, S, D)
        elif mask is None:
            mask = build_mask(self.mask, positions, T, None)
        if self.training and (self.dropout.p > 0 or writing_out_is_faster(q, k)):
            mixed = self.attend_written_out(q, k, v, mask)
        elif T == 1:
            # the queries of a group as rows of one product: up to 13 times faster than enable_gqa in bfloat16 on CPU
            rows = q.view(B, self.n_kv_heads, -1, self.head_dim)
            mixed = F.scaled_dot_product_attention(rows, k, v, mask, scale=self.scale).view_as(q)
        else:
            grouped = self.n_heads != self.n_kv_heads
            mixed = F.scaled_dot_product_attention(
                q, k, v, mask, is_causal=mask is None, scale=self.scale, enable_gqa=grouped
            )
        joined = mixed.transpose(1, 2).reshape(B, T, self.n_heads * self.head_dim)
        out: Tensor = self.output(joined)
        return out

    def attend_written_out(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """softmax(q k^T) v in plain products, where attention weights can be dropped by our own mask. (B, H, T, D).

        A few queries at a time, and only with the keys up to theirs: nearly half of the scores are never made.
        """
        q = (q * self.scale).contiguous()
        k = k.repeat_interleave(self.n_heads // self.n_kv_heads, dim=1).contiguous()
        v = v.repeat_interleave(self.n_heads // self.n_kv_heads, dim=1).contiguous()
        T, S = q.shape[2], k.shape[2]
        hide = q.new_full((T, S) if mask is None else mask.shape, float("-inf"))
        hide = hide.triu(S - T + 1) if mask is None else hide.masked_fill(mask, 0)
        step = T if self.dropout.p > 0 else QUERIES_AT_ONCE  # its mask goes by the place among all weights
        mixed = []
        for begin in range(0, T, step):
            end = min(begin + step, T)
            seen = S - T + end
            scores = q[:, :, begin:end] @ k[:, :, :seen].transpose(2, 3)  # (B, H, step, seen)
            weights = (scores + hide[..., begin:end, :seen]).softmax(-1).type_as(v)
            mixed.append(self.dropout(weights) @ v[:, :, :seen])
        return torch.cat(mixed, dim=2)


def writing_out_is_faster(q: Tensor, k: Tensor) -> bool:
    """Whether fused attention loses: for bfloat16 on CPU, forward and backward take it twice as long as plain products.
    These keep the weights for the backward pass, (T, S) a head: too much where the text is long.
    """
    return q.dtype == torch.bfloat16 and q.device.type == "cpu" and q.shape[2] * k.shape[2] <= MOST_SCORES
