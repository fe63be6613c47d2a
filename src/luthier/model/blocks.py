"""Blocks that combine attention and feed-forward differently from Block. (B, T, C) -> (B, T, C)."""

from __future__ import annotations

from torch import Tensor, nn

from luthier.model.attention import Attention
from luthier.model.cache import LayerCache
from luthier.model.context import AttentionContext
from luthier.model.hook_point import HookPoint
from luthier.model.transformer import Block


class ParallelBlock(Block):
    """x += attention(norm(x)) + feed_forward(norm(x)): both read the same input (GPT-J; arXiv 2204.06745).

    feed_forward_norm: None if both read the output of attention_norm. Hook point `after_attention`: the stream with
    what attention adds, which the feed-forward does not read.
    """

    def __init__(
        self,
        attention_norm: nn.Module,
        attention: Attention,
        feed_forward_norm: nn.Module | None,
        feed_forward: nn.Module,
        dropout: float = 0.0,
    ) -> None:
        norm = nn.Identity() if feed_forward_norm is None else feed_forward_norm
        super().__init__(attention_norm, attention, norm, feed_forward, dropout)
        self.shares_norm = feed_forward_norm is None
        self.after_attention = HookPoint()

    @property
    def after_attention_at(self) -> nn.Module:
        return self.after_attention

    def forward(self, x: Tensor, context: AttentionContext, cache: LayerCache | None = None) -> Tensor:
        normed = self.attention_norm(x)
        other = self.feed_forward_norm(normed if self.shares_norm else x)
        added = self.attention_post(self.attention(normed, context, cache))
        stream = self.after_attention(x + self.attention_dropout(added))
        out: Tensor = stream + self.feed_forward_dropout(self.feed_forward_post(self.feed_forward(other)))
        return out
