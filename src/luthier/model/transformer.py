"""A decoder-only Transformer: embed the tokens, pass them through blocks, name the next token.

Shapes: B batch, T tokens, S tokens seen (cached and new), C dim, V vocab_size.
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
from luthier.model.moe import MoE, uncounted
from luthier.model.rope import LengthRope


class Block(nn.Module):
    """x += attention(norm(x)), then x += feed_forward(norm(x)) (pre-norm, arXiv 2002.04745).

    attention_post, feed_forward_post: what a sublayer's result passes through before it is added: a norm (OLMo 2,
    Gemma 2), a `Scale` (Granite); nothing unless given. A norm before that there is none of is an `nn.Identity`.
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


class Transformer(nn.Module):
    """The whole model, from the parts that an architecture's `build` gives it.

    position_embedding: GPT-2's learned one; None where positions enter in attention.
    tie_embeddings: the output matrix is the embedding matrix.
    activation_checkpointing (an attribute, False at first): in training keep the input of each block only, and compute
    the rest again in the backward pass. A step then does a third more arithmetic and needs far less memory.
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
        self.activation_checkpointing = False
        self.tie()

    @property
    def dtype(self) -> torch.dtype:
        """The number type of the weights; of those that are not packed in few bits, where others are."""
        return next((weight.dtype for weight in self.parameters()), torch.bfloat16)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next((weight.device for weight in self.parameters()), torch.device("cpu"))

    def tie(self) -> None:
        """Make the output matrix the embedding matrix again where they are tied: assigning weights separates them."""
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
        contexts: dict[Hashable, AttentionContext] = {}
        for attention in (block.attention for block in self.layers):
            if attention.kind not in contexts:
                contexts[attention.kind] = attention.context(key_positions, n_queries, valid)
        x = self.embedding(tokens)  # (B, T, C)
        if self.position_embedding is not None:
            x = x + self.position_embedding(key_positions[:, -n_queries:])
        x = self.dropout(x)
        run = checkpointed if self.activation_checkpointing and self.training and torch.is_grad_enabled() else direct
        for layer, block in enumerate(self.layers):
            x = run(block, x, contexts[block.attention.kind], None if cache is None else cache.layers[layer])
        out: Tensor = self.norm(x)
        return out

    def make_cache(self, capacity: int) -> KVCache:
        """A cache for texts of up to so many tokens."""
        return KVCache([block.attention.make_cache(capacity) for block in self.layers])

    def choose_cores(self, dtype: torch.dtype | None = None, *, weights: bool = False) -> None:
        """Choose how each layer computes attention and experts: the fastest way that supports what it needs.

        Called whenever weights move; call it where the number type of the products is another than that of the
        weights (autocast), and with weights=True where the attention weights are to pass through their hook points.
        """
        device, dtype = self.device.type, dtype or self.dtype
        for block in self.layers:
            block.attention.choose_cores(device, dtype, weights=weights)
            if isinstance(block.feed_forward, MoE):
                block.feed_forward.experts.choose_backend(device, dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `to`, `cuda`, `bfloat16` and the like call: the cores are chosen anew."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.choose_cores()
        return self

    def compile_blocks(self, *, dynamic: bool | None = None, backend: str | Callable[..., Any] = "inductor") -> None:
        """Compile each block by itself, where it is: one compilation serves all the blocks that are alike."""
        for block in self.layers:
            if isinstance(block.feed_forward, MoE):
                block.feed_forward.experts.leave_uncompiled()
            block.compile(dynamic=dynamic, backend=backend)

    @property
    def layers(self) -> list[Block]:
        """The blocks, typed."""
        return cast("list[Block]", list(self.blocks))

    @property
    def steady_length(self) -> int | None:
        """Texts up to so many tokens have the same logits however they are cut into calls; None: all texts.

        Beyond, a scaling of rotary positions depends on the length of the text (see LengthRope).
        """
        steps = [step for block in self.layers for step in block.attention.qk_steps]
        return min((s.scaling.original_context_length for s in steps if isinstance(s, LengthRope)), default=None)

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


def direct(block: Block, x: Tensor, context: AttentionContext, cache: LayerCache | None) -> Tensor:
    """Run a block."""
    out: Tensor = block(x, context, cache)
    return out


def checkpointed(block: Block, x: Tensor, context: AttentionContext, cache: LayerCache | None) -> Tensor:
    """Run a block and keep only its input: the backward pass runs it once more (arXiv 1604.06174).

    Gradients are the same to the last bit: dropout's masks are a function of a seed and the place (dropout.py), so no
    generator's state has to be put back. It is around the whole call, and so around compiled code and FSDP's hooks.
    """
    out: Tensor = checkpoint(
        block, x, context, cache, use_reentrant=False, preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), uncounted(block)),
    )  # fmt: skip
    return out
