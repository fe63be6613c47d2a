"""The key-value cache: what attention keeps of the tokens already read, so that a new token costs one step.

Shapes: B batch, K key heads, T new tokens, S tokens so far, D width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from luthier.errors import LuthierError

SLACK = 256  # tokens that can be taken back where a layer forgets, and that it adds before it forgets again


class LayerCache:
    """What one attention layer keeps of each token: keys and values, or any tensors of its own (a latent).

    Made by the layer's `Attention.make_cache`. The buffers are made at the first call.

    capacity: tokens of the text. window: keys this far back are never asked for again; then the buffers hold about so
    many tokens, however long the text. None: all are kept. begin: the first token that is still held, counted from 0.
    length: tokens read so far.
    """

    def __init__(self, capacity: int, window: int | None = None) -> None:
        self.capacity, self.window = capacity, window
        self.begin = self.length = 0
        self.buffers: tuple[Tensor, ...] | None = None

    def append(self, *new: Tensor, first: int = 0) -> tuple[Tensor, ...]:
        """Add tensors (B, K, T, D), each with its own K and D. Returns those of the tokens from `first` on,
        (B, K, S, D), as views that later calls extend.

        Raises a LuthierError beyond the capacity, and for tokens that are no longer held.
        """
        end = self.length + new[0].shape[2]
        if end > self.capacity:
            raise LuthierError(f"the cache holds {self.capacity} tokens, {end} are needed: make it larger")
        if first < self.begin:
            raise LuthierError(f"the cache has dropped the first {self.begin} tokens, and {first} on are asked for")
        if self.buffers is None or end - self.begin > self.buffers[0].shape[2]:
            self.make_room(new, first)
        assert self.buffers is not None
        for buffer, tensor in zip(self.buffers, new, strict=True):
            buffer[:, :, self.length - self.begin : end - self.begin] = tensor
        self.length = end
        return tuple(buffer[:, :, first - self.begin : end - self.begin] for buffer in self.buffers)

    def make_room(self, new: Sequence[Tensor], first: int) -> None:
        """Buffers into which the new tensors fit. Of the old ones, what will not be asked for is left behind."""
        begin, size = self.begin, self.capacity
        if self.window is not None:
            begin = max(begin, min(first, self.length - self.window - SLACK))
            added = new[0].shape[2] + SLACK
            size = min(self.capacity - begin, max(self.length - begin, self.window + SLACK) + added)
        made = tuple(tensor.new_empty(*tensor.shape[:2], size, tensor.shape[3]) for tensor in new)
        for old, buffer in zip(self.buffers or (), made, strict=False):
            buffer[:, :, : self.length - begin] = old[:, :, begin - self.begin : self.length - self.begin]
        self.begin, self.buffers = begin, made


class KVCache:
    """The cache of a whole model, made by `Transformer.make_cache`: one LayerCache a block."""

    def __init__(self, layers: Sequence[LayerCache]) -> None:
        self.layers = list(layers)

    @property
    def length(self) -> int:
        """Tokens held."""
        return self.layers[0].length

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens. Of layers with a window, only the last SLACK can be taken back."""
        if any(layer.begin > max(0, length - layer.window) for layer in self.layers if layer.window is not None):
            raise LuthierError(f"the cache has dropped what token {length} sees: read the text again")
        for layer in self.layers:
            layer.length = min(layer.length, length)

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order, (B',) ids: for beams, and for rows that have ended."""
        for layer in self.layers:
            if layer.buffers is not None:
                layer.buffers = tuple(buffer.index_select(0, rows) for buffer in layer.buffers)

    def drop_first(self, count: int) -> None:
        """Forget the first `count` slots: padding that no row of the batch needs."""
        for layer in self.layers:
            held = max(0, count - layer.begin)  # those of them that are still there
            layer.begin = max(0, layer.begin - count)
            layer.length -= count
            layer.capacity -= count
            if layer.buffers is not None:
                layer.buffers = tuple(buffer[:, :, held:] for buffer in layer.buffers)
