"""A decoder-only Transformer (arXiv 1706.03762).

Shapes: B batch, T new tokens, S keys (cached and new), C dim, V vocab_size.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from luthier.errors import LuthierError
from luthier.model.attention import Attention
from luthier.model.cache import KVCache, LayerCache
from luthier.model.context import AttentionContext
from luthier.model.dropout import Dropout
from luthier.model.moe import MoE, preserve_load
from luthier.model.rope import LengthRope


class Block(nn.Module):
    """x += attention(norm(x)), then x += feed_forward(norm(x)) (pre-norm, arXiv 2002.04745).

    attention_post, feed_forward_post: applied to a sublayer's output before it is added: a norm (OLMo 2, Gemma 2), a
    `Scale` (Granite); identity unless given. A block without pre-norms has `nn.Identity` for them.
    """

    def __init__(
        self,
        attention_norm: nn.Module,
        attention: Attention,
        feed_forward_norm: nn.Module,
        feed_forward: nn.Module,
        dropout: float = 0.0,
        *,
        attention_post: nn.Module | None = None,
        feed_forward_post: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.attention_norm = attention_norm
        self.attention = attention
        self.attention_post = attention_post or nn.Identity()
        self.attention_dropout = Dropout(dropout)
        self.feed_forward_norm = feed_forward_norm
        self.feed_forward = feed_forward
        self.feed_forward_post = feed_forward_post or nn.Identity()
        self.feed_forward_dropout = Dropout(dropout)

    def forward(self, x: Tensor, context: AttentionContext, cache: LayerCache | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        added = self.attention(self.attention_norm(x), context, cache)
        x = x + self.attention_dropout(self.attention_post(added))
        added = self.feed_forward(self.feed_forward_norm(x))
        out: Tensor = x + self.feed_forward_dropout(self.feed_forward_post(added))
        return out

    @property
    def after_attention_at(self) -> nn.Module:
        """The module whose first input is the stream with what attention adds: what inspection hooks."""
        return self.feed_forward_norm


class Transformer(nn.Module):
    """A language model: embedding, blocks, final norm and output matrix, which a family's `build` passes in.

    position_embedding: learned positions (GPT-2); None for models with RoPE.
    tie_embeddings: the output matrix is the embedding matrix. output: the output matrix, where it is not a
    plain one.
    activation_checkpointing (an attribute, initially False): in training, keep only the input of each block and
    recompute the rest in the backward pass: a third more computation, far less memory.
    """

    def __init__(
        self,
        embedding: nn.Embedding,
        blocks: Sequence[Block],
        norm: nn.Module,
        *,
        position_embedding: nn.Embedding | None = None,
        tie_embeddings: bool = False,
        output: nn.Linear | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        vocab_size, dim = embedding.weight.shape
        self.embedding = embedding
        self.position_embedding = position_embedding
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.output = nn.Linear(dim, vocab_size, bias=False) if output is None else output
        self.tie_embeddings = tie_embeddings
        self.activation_checkpointing = False
        self.tie()

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights; in a quantized model, of those that are not quantized."""
        return next((weight.dtype for weight in self.parameters()), torch.bfloat16)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next((weight.device for weight in self.parameters()), torch.device("cpu"))

    def tie(self) -> None:
        """Tie the output matrix to the embedding where the config says so; needed after assigning weights."""
        if self.tie_embeddings:
            self.output.weight = self.embedding.weight

    def forward(self, tokens: Tensor, cache: KVCache | None = None, *, valid: Tensor | None = None) -> Tensor:
        """(B, T) ids -> logits (B, T, V).

        cache: past tokens; the new ones are appended. valid (B, S) bool, False = padding, for all S tokens, including
        cached ones. Positions are counted from 0 at the first valid token of each row.
        """
        logits: Tensor = self.output(self.hidden(tokens, cache, valid=valid))
        return logits

    def hidden(self, tokens: Tensor, cache: KVCache | None = None, *, valid: Tensor | None = None) -> Tensor:
        """(B, T) ids -> final hidden states, after the last norm, (B, T, C)."""
        n_queries = tokens.shape[1]
        n_keys = n_queries + (cache.length if cache is not None else 0)
        key_positions = self.positions(n_keys, valid, tokens.device)  # (B or 1, S)
        contexts: dict[Hashable, AttentionContext] = {}
        for attention in (block.attention for block in self.layers):
            if attention.context_key not in contexts:
                contexts[attention.context_key] = attention.context(key_positions, n_queries, valid)
        x = self.embedding(tokens)  # (B, T, C)
        if self.position_embedding is not None:
            x = x + self.position_embedding(key_positions[:, -n_queries:])
        x = self.dropout(x)
        run = (
            run_block_checkpointed
            if self.activation_checkpointing and self.training and torch.is_grad_enabled()
            else run_block
        )
        for layer, block in enumerate(self.layers):
            x = run(block, x, contexts[block.attention.context_key], None if cache is None else cache.layers[layer])
        out: Tensor = self.norm(x)
        return out

    def make_cache(self, capacity: int) -> KVCache:
        """A key-value cache for up to `capacity` tokens."""
        return KVCache([block.attention.make_cache(capacity) for block in self.layers])

    def choose_cores(self, dtype: torch.dtype | None = None, *, weights: bool = False) -> None:
        """Choose each layer's attention core and expert back end: the fastest that supports its requirements.

        Called whenever weights are moved or cast. Call it for autocast, with the dtype of the products, and with
        weights=True where attention weights must pass through their hook points.
        """
        device, dtype = self.device.type, dtype or self.dtype
        for block in self.layers:
            block.attention.choose_cores(device, dtype, weights=weights)
            if isinstance(block.feed_forward, MoE):
                block.feed_forward.experts.choose_backend(device, dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Called by `to`, `cuda`, `bfloat16` and the like: choose the cores again."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.choose_cores()
        return self

    def compile_blocks(self, *, dynamic: bool | None = None, backend: str | Callable[..., Any] = "inductor") -> None:
        """Compile each block in place (regional compilation): identical blocks share one compilation."""
        for block in self.layers:
            if isinstance(block.feed_forward, MoE):
                block.feed_forward.experts.exclude_from_compile()
            block.compile(dynamic=dynamic, backend=backend)

    @property
    def layers(self) -> list[Block]:
        """The blocks, as a typed list."""
        return cast("list[Block]", list(self.blocks))

    @property
    def max_exact_length(self) -> int | None:
        """Sequence length up to which logits do not depend on how tokens are split into calls; None: any length.

        Beyond it, a RoPE scaling depends on the sequence length (see LengthRope).
        """
        ropes = [block.attention.rope for block in self.layers]
        return min((r.scaling.original_context_length for r in ropes if isinstance(r, LengthRope)), default=None)

    def positions(self, n_keys: int, valid: Tensor | None, device: torch.device) -> Tensor:
        """Positions of all tokens so far, (B or 1, S). Padding gets position 0; it is masked."""
        if self.position_embedding is not None and n_keys > self.position_embedding.num_embeddings:
            table = self.position_embedding.num_embeddings
            raise LuthierError(f"{n_keys} tokens exceed this model's {table} positions: shorten the input")
        if valid is None:
            return torch.arange(n_keys, device=device)[None]
        if valid.shape[1] != n_keys:  # it could broadcast silently
            raise LuthierError(f"valid has {valid.shape[1]} tokens, expected {n_keys} including those in the cache")
        return (valid.long().cumsum(1) - 1).clamp(min=0)


def run_block(block: Block, x: Tensor, context: AttentionContext, cache: LayerCache | None) -> Tensor:
    """Run a block."""
    out: Tensor = block(x, context, cache)
    return out


def run_block_checkpointed(block: Block, x: Tensor, context: AttentionContext, cache: LayerCache | None) -> Tensor:
    """Run a block with activation checkpointing: keep only its input and rerun it in backward (arXiv 1604.06174).

    Gradients are bitwise equal: dropout masks are a function of a seed and the index (dropout.py), so no generator
    state has to be restored. It wraps the whole call, including compiled code and FSDP's hooks.
    """
    out: Tensor = checkpoint(
        block, x, context, cache, use_reentrant=False, preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), preserve_load(block)),
    )  # fmt: skip
    return out
