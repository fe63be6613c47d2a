"""A decoder-only Transformer: embed the tokens, pass them through blocks, name the next token.

Shapes: B batch, T tokens, S tokens seen (cached and new), C dim, V vocab_size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from luthier.errors import LuthierError
from luthier.model.attention import Attention
from luthier.model.cache import KVCache, LayerCache
from luthier.model.dropout import Dropout
from luthier.model.mask import MaskRule, build_mask, first_slot
from luthier.model.moe import leave_experts_uncompiled


class Block(nn.Module):
    """x += attention(norm(x)), then x += feed_forward(norm(x)): the norms come first, so the stream stays free."""

    def __init__(
        self,
        attention_norm: nn.Module,
        attention: Attention,
        feed_forward_norm: nn.Module,
        feed_forward: nn.Module,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention_norm = attention_norm
        self.attention = attention
        self.attention_dropout = Dropout(dropout)
        self.feed_forward_norm = feed_forward_norm
        self.feed_forward = feed_forward
        self.feed_forward_dropout = Dropout(dropout)

    def forward(
        self, x: Tensor, positions: Tensor, cache: LayerCache | None, mask: Tensor | None, first: int = 0
    ) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.attention_dropout(self.attention(self.attention_norm(x), positions, cache, mask, first=first))
        out: Tensor = x + self.feed_forward_dropout(self.feed_forward(self.feed_forward_norm(x)))
        return out


class Transformer(nn.Module):
    """The whole model, from the parts that an architecture's `build` gives it.

    position_embedding: GPT-2's learned one; None where positions enter in attention.
    tie_embeddings: the output matrix is the embedding matrix.
    """

    def __init__(
        self,
        embedding: nn.Embedding,
        blocks: Sequence[Block],
        norm: nn.Module,
        *,
        position_embedding: nn.Embedding | None = None,
        tie_embeddings: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        vocab_size, dim = embedding.weight.shape
        self.embedding = embedding
        self.position_embedding = position_embedding
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.output = nn.Linear(dim, vocab_size, bias=False)
        self.tie_embeddings = tie_embeddings
        self.tie()

    def tie(self) -> None:
        """Make the output matrix the embedding matrix again, where it should be: assigning weights parts them."""
        if self.tie_embeddings:
            self.output.weight = self.embedding.weight

    def forward(self, tokens: Tensor, cache: KVCache | None = None, *, valid: Tensor | None = None) -> Tensor:
        """(B, T) ids -> logits (B, T, V), always.

        cache: what was read before; the new tokens are added to it. valid (B, S) bool, False = padding, for all S
        tokens, those in the cache too. Positions are counted from 0 at the first valid token of each row.
        """
        logits: Tensor = self.output(self.hidden(tokens, cache, valid=valid))
        return logits

    def hidden(self, tokens: Tensor, cache: KVCache | None = None, *, valid: Tensor | None = None) -> Tensor:
        """(B, T) ids -> what the output matrix reads, (B, T, C)."""
        n_queries = tokens.shape[1]
        n_keys = n_queries + (cache.length if cache is not None else 0)
        key_positions = self.positions(n_keys, valid, tokens.device)  # (B or 1, S)
        positions = key_positions[:, -n_queries:]
        masks: dict[MaskRule, tuple[Tensor | None, int]] = {}
        for rule in self.mask_rules:
            first = first_slot(rule, key_positions, n_queries, valid)
            seen = None if valid is None else valid[:, first:]
            masks[rule] = build_mask(rule, key_positions[:, first:], n_queries, seen), first
        x = self.embedding(tokens)  # (B, T, C)
        if self.position_embedding is not None:
            x = x + self.position_embedding(positions)
        x = self.dropout(x)
        for layer, block in enumerate(self.layers):
            x = block(x, positions, None if cache is None else cache.layers[layer], *masks[block.attention.mask])
        out: Tensor = self.norm(x)
        return out

    def compile_blocks(self, *, dynamic: bool | None = None, backend: str | Callable[..., Any] = "inductor") -> None:
        """Compile each block by itself, where it is: one compilation serves all the blocks that are alike."""
        leave_experts_uncompiled()
        for block in self.layers:
            block.compile(dynamic=dynamic, backend=backend)

    @property
    def layers(self) -> list[Block]:
        """The blocks, typed."""
        return cast("list[Block]", list(self.blocks))

    @property
    def mask_rules(self) -> set[MaskRule]:
        """The rules that the blocks use."""
        return {block.attention.mask for block in self.layers}

    def positions(self, n_keys: int, valid: Tensor | None, device: torch.device) -> Tensor:
        """Positions of all tokens so far, (B or 1, S). Padding has position 0 and is masked."""
        if self.position_embedding is not None and n_keys > self.position_embedding.num_embeddings:
            table = self.position_embedding.num_embeddings
            raise LuthierError(f"{n_keys} tokens are more than the {table} positions of this model: give it fewer")
        if valid is None:
            return torch.arange(n_keys, device=device)[None]
        if valid.shape[1] != n_keys:  # it could broadcast, and mask what it should not
            raise LuthierError(f"valid is for {valid.shape[1]} tokens, and there are {n_keys} with those in the cache")
        return (valid.long().cumsum(1) - 1).clamp(min=0)
