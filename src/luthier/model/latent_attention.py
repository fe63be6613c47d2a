"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): keys and values are computed from a compressed latent.

Shapes: B batch, T tokens, S visible tokens (cached and new), C dim, H heads, R rank of the latent, N dimensions of a
head without positions, P with positions, E value_dim.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from luthier.model.attention import Attention
from luthier.model.cache import LayerCache
from luthier.model.context import AttentionContext
from luthier.model.dropout import Dropout
from luthier.model.hook_point import HookPoint
from luthier.model.mask import causal
from luthier.model.norm import RMSNorm
from luthier.model.overrides import must_be_called
from luthier.model.rope import LengthRope, Rope

EPS = 1e-6  # of the norms inside


class LatentAttention(Attention):
    """Attention whose cache holds, for each token, a latent (R) and a rotated key (P) that all heads share.

    query_rank: rank of the query projection, with a norm; None: full rank. nope_dim, rope's head_dim: the
    dimensions of a head without and with positions. scale: of the scores; that of `rope`'s scaling is applied here, to
    the dimensions with positions.

    For a few new tokens after many cached ones, the projections are absorbed into queries and outputs, so that keys and
    values of cached tokens are never computed; otherwise they are computed in each call.
    """

    def __init__(
        self,
        dim: int,
        n_heads: int,
        *,
        query_rank: int | None,
        rank: int,
        nope_dim: int,
        value_dim: int,
        rope: Rope | LengthRope,
        scale: float,
        dropout: float = 0.0,
    ) -> None:
        nn.Module.__init__(self)
        self.n_heads = self.n_kv_heads = n_heads
        self.rank, self.nope_dim, self.rope_dim, self.value_dim = rank, nope_dim, rope.head_dim, value_dim
        self.head_dim = nope_dim + self.rope_dim
        self.mask, self.scale, self.softcap = causal, scale, None
        self.magnitude = 1.0 if rope.scaling is None else rope.scaling.magnitude
        self.query_down = None if query_rank is None else nn.Linear(dim, query_rank, bias=False)
        self.query_norm = None if query_rank is None else RMSNorm(query_rank, EPS)
        self.query = nn.Linear(dim if query_rank is None else query_rank, n_heads * self.head_dim, bias=False)
        self.down = nn.Linear(dim, rank + self.rope_dim, bias=False)  # the latent, then the key with positions
        self.latent_norm = RMSNorm(rank, EPS)
        self.key = nn.Linear(rank, n_heads * nope_dim, bias=False)
        self.value = nn.Linear(rank, n_heads * value_dim, bias=False)
        self.output = nn.Linear(n_heads * value_dim, dim, bias=False)
        self.sinks = None
        self.qk_steps = nn.ModuleList([rope])
        self.dropout = Dropout(dropout)
        self.weights, self.heads = HookPoint(), HookPoint()
        self.choose_cores()

    def forward(self, x: Tensor, context: AttentionContext, cache: LayerCache | None = None) -> Tensor:
        B, T, _ = x.shape
        low = x if self.query_down is None or self.query_norm is None else self.query_norm(self.query_down(x))
        q = self.query(low).view(B, T, self.n_heads, self.head_dim).transpose(1, 2)  # (B, H, T, N + P)
        q, rotated = q.split((self.nope_dim, self.rope_dim), -1)
        latent, key = self.down(x)[:, None].split((self.rank, self.rope_dim), -1)  # (B, 1, T, R), (B, 1, T, P)
        latent = self.latent_norm(latent)
        [rope] = self.qk_steps
        rotated, key = rope(rotated, key, context)
        if self.magnitude != 1:
            rotated, key = rotated * self.magnitude, key * self.magnitude
        if cache is not None:
            latent, key = cache.append(latent, key, first=context.first_key)  # (B, 1, S, R), (B, 1, S, P)
        few = cache is not None and T * self.n_heads <= latent.shape[2]
        if few and not any(must_be_called(module, nn.Linear) for module in (self.key, self.value)):
            mixed = self.among_latents(q, rotated, latent, key, context.mask)
        else:
            k = self.key(latent).view(B, -1, self.n_heads, self.nope_dim).transpose(1, 2)  # (B, H, S, N)
            v = self.value(latent).view(B, -1, self.n_heads, self.value_dim).transpose(1, 2)  # (B, H, S, E)
            k = torch.cat((k, key.expand(-1, self.n_heads, -1, -1)), -1)
            mixed = self.attend(torch.cat((q, rotated), -1), k, v, context.mask)
        heads = self.heads(mixed.transpose(1, 2))  # (B, T, H, E)
        out: Tensor = self.output(heads.reshape(B, T, self.n_heads * self.value_dim))
        return out

    def among_latents(self, q: Tensor, rotated: Tensor, latent: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
        """The same by q (W_key latent) = (q W_key) latent, and so for values: one key and value for all heads.

        q (B, H, T, N), rotated (B, H, T, P) -> (B, H, T, E).
        """
        up = self.key.weight.to(q.dtype).view(self.n_heads, self.nope_dim, self.rank)
        q = torch.einsum("bhtn,hnr->bhtr", q, up)
        k = torch.cat((latent, key), -1)  # (B, 1, S, R + P)
        mixed = self.attend(torch.cat((q, rotated), -1), k, latent, mask)  # (B, H, T, R)
        values = self.value.weight.to(q.dtype).view(self.n_heads, self.value_dim, self.rank)
        return torch.einsum("bhtr,her->bhte", mixed, values)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Compute attention by the core of training or of evaluation."""
        core = self.training_core if self.training else self.core
        return core(
            q, k, v, mask,
            scale=self.scale, softcap=None, sinks=None, dropout=self.dropout, weights=self.weights,
        )  # fmt: skip
