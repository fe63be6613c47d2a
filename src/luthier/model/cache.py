"""Keys and values of the tokens already read, so that each new token costs one step and not the whole text again.

Shapes: B batch, K key heads, T new tokens, S tokens so far, D head_dim.
"""

from __future__ import annotations

from torch import Tensor

from luthier.errors import LuthierError


class LayerCache:
    """One layer's keys and values, written into buffers that are made at the first call for `capacity` tokens."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self.buffers: tuple[Tensor, Tensor] | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add (B, K, T, D) keys and values. Returns all so far, (B, K, S, D), as views that later calls extend."""
        B, K, T, D = keys.shape
        end = self.length + T
        if end > self.capacity:
            raise LuthierError(f"the cache holds {self.capacity} tokens, {end} are needed: make it larger")
        if self.buffers is None:
            self.buffers = (keys.new_empty(B, K, self.capacity, D), values.new_empty(B, K, self.capacity, D))
        for buffer, new in zip(self.buffers, (keys, values), strict=True):
            buffer[:, :, self.length : end] = new
        self.length = end
        return self.buffers[0][:, :, :end], self.buffers[1][:, :, :end]


class KVCache:
    """The cache of a whole model: one LayerCache a block."""

    def __init__(self, n_layers: int, capacity: int) -> None:
        self.layers = [LayerCache(capacity) for _ in range(n_layers)]

    @property
    def length(self) -> int:
        """Tokens held."""
        return self.layers[0].length

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        for layer in self.layers:
            layer.length = min(layer.length, length)

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order, (B',) ids: for beams, and for rows that have ended."""
        for layer in self.layers:
            if layer.buffers is not None:
                keys, values = layer.buffers
                layer.buffers = (keys.index_select(0, rows), values.index_select(0, rows))

    def drop_first(self, count: int) -> None:
        """Forget the first `count` slots: padding that no row of the batch needs."""
        for layer in self.layers:
            layer.length -= count
            layer.capacity -= count
            if layer.buffers is not None:
                keys, values = layer.buffers
                layer.buffers = (keys[:, :, count:], values[:, :, count:])
