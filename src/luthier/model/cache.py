"""The key-value cache: keys and values of past tokens, so that each new token costs one forward pass of one token.

Shapes: B batch, K key heads, T new tokens, S tokens so far, D width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from luthier.errors import LuthierError

SLACK = 256  # tokens beyond a layer's window that are kept for `truncate`, and that are appended between reallocations


class LayerCache:
    """The cache of one attention layer: keys and values, or other tensors of the layer (such as MLA's latent).

    Created by the layer's `Attention.make_cache`. Buffers are allocated at the first call of `append`.

    capacity: maximum number of tokens. window: tokens further back are dropped, so that the buffers stay about this
    size; None: all are kept. begin: index of the first token that is still held. length: tokens so far.
    """

    def __init__(self, capacity: int, window: int | None = None) -> None:
        self.capacity, self.window = capacity, window
        self.begin = self.length = 0
        self.buffers: tuple[Tensor, ...] | None = None

    def append(self, *new: Tensor, first: int = 0) -> tuple[Tensor, ...]:
        """Append tensors (B, K, T, D), each with its own K and D. Returns those of all tokens from index `first`,
        (B, K, S, D), as views of the buffers.

        Raises a LuthierError beyond the capacity, and for tokens that have been dropped.
        """
        end = self.length + new[0].shape[2]
        if end > self.capacity:
            raise LuthierError(f"the cache holds {self.capacity} tokens, {end} are needed: make it larger")
        if first < self.begin:
            raise LuthierError(f"the cache has dropped the first {self.begin} tokens, and {first} on are asked for")
        if self.buffers is None or end - self.begin > self.buffers[0].shape[2]:
            self.reallocate(new, first)
        assert self.buffers is not None
        for buffer, tensor in zip(self.buffers, new, strict=True):
            buffer[:, :, self.length - self.begin : end - self.begin] = tensor
        self.length = end
        return tuple(buffer[:, :, first - self.begin : end - self.begin] for buffer in self.buffers)

    def reallocate(self, new: Sequence[Tensor], first: int) -> None:
        """Allocate larger buffers, and copy the tokens that are still needed into them."""
        begin, size = self.begin, self.capacity
        if self.window is not None:
            begin = max(begin, min(first, self.length - self.window - SLACK))
            added = new[0].shape[2] + SLACK
            size = min(self.capacity - begin, max(self.length - begin, self.window + SLACK) + added)
        buffers = tuple(tensor.new_empty(*tensor.shape[:2], size, tensor.shape[3]) for tensor in new)
        for old, buffer in zip(self.buffers or (), buffers, strict=False):
            buffer[:, :, : self.length - begin] = old[:, :, begin - self.begin : self.length - self.begin]
        self.begin, self.buffers = begin, buffers


class KVCache:
    """The cache of a model: one LayerCache per block. Created by `Transformer.make_cache`."""

    def __init__(self, layers: Sequence[LayerCache]) -> None:
        self.layers = list(layers)

    @property
    def length(self) -> int:
        """Tokens so far."""
        return self.layers[0].length

    def truncate(self, length: int) -> None:
        """Drop all but the first `length` tokens. Layers with a window can drop at most the last SLACK tokens."""
        if any(layer.begin > max(0, length - layer.window) for layer in self.layers if layer.window is not None):
            raise LuthierError(f"the cache has dropped tokens that token {length} sees: start with a new cache")
        for layer in self.layers:
            layer.length = min(layer.length, length)

    def select(self, rows: Tensor) -> None:
        """Select rows of the batch in this order, (B',) indices: to reorder beams and to drop finished sequences."""
        for layer in self.layers:
            if layer.buffers is not None:
                layer.buffers = tuple(buffer.index_select(0, rows) for buffer in layer.buffers)

    def drop_first(self, count: int) -> None:
        """Drop the first `count` slots: padding in every row of the batch."""
        for layer in self.layers:
            held = max(0, count - layer.begin)  # those that are still in the buffers
            layer.begin = max(0, layer.begin - count)
            layer.length -= count
            layer.capacity -= count
            if layer.buffers is not None:
                layer.buffers = tuple(buffer[:, :, held:] for buffer in layer.buffers)
