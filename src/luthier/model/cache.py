"""Keys and values of the tokens already read, so that each new token costs one step and not the whole text again.

Shapes: B batch, K key heads, T new tokens, S tokens so far, D head_dim.
"""

from __future__ import annotations

from torch import Tensor

from luthier.errors import LuthierError

SLACK = 256  # tokens that may be taken back where a layer forgets, and that it adds before it forgets again


class LayerCache:
    """One layer's keys and values, written into buffers that are made at the first call.

    capacity: tokens of the text. begin: the first token that is still held, `reach` and SLACK back at most where the
    layer sees no further: then the buffers hold about so many, however long the text.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.begin = self.length = 0
        self.reach: int | None = None
        self.buffers: tuple[Tensor, Tensor] | None = None

    def append(self, keys: Tensor, values: Tensor, first: int = 0, reach: int | None = None) -> tuple[Tensor, Tensor]:
        """Add (B, K, T, D) keys and values. Returns those from token `first` on, (B, K, S, D), as views that later
        calls extend. reach: tokens that lie so far back are not asked for again (see MaskRule); None: any may be.
        """
        end = self.length + keys.shape[2]
        if end > self.capacity:
            raise LuthierError(f"the cache holds {self.capacity} tokens, {end} are needed: make it larger")
        if first < self.begin:
            raise LuthierError(f"the cache has forgotten the first {self.begin} tokens, and {first} on are asked for")
        self.reach = reach
        if self.buffers is None or end - self.begin > self.buffers[0].shape[2]:
            self.make_room(keys, values, first)
        assert self.buffers is not None
        for buffer, new in zip(self.buffers, (keys, values), strict=True):
            buffer[:, :, self.length - self.begin : end - self.begin] = new
        self.length = end
        seen = slice(first - self.begin, end - self.begin)
        return self.buffers[0][:, :, seen], self.buffers[1][:, :, seen]

    def make_room(self, keys: Tensor, values: Tensor, first: int) -> None:
        """Buffers into which new keys and values fit. Of the old ones, what will not be asked for is left behind."""
        B, K, T, D = keys.shape
        begin, size = self.begin, self.capacity
        if self.reach is not None:
            begin = max(begin, min(first, self.length - self.reach - SLACK))
            size = min(self.capacity - begin, max(self.length - begin, self.reach + SLACK) + T + SLACK)
        made = (keys.new_empty(B, K, size, D), values.new_empty(B, K, size, D))
        for old, new in zip(self.buffers or (), made, strict=False):
            new[:, :, : self.length - begin] = old[:, :, begin - self.begin : self.length - self.begin]
        self.begin, self.buffers = begin, made


class KVCache:
    """The cache of a whole model: one LayerCache a block."""

    def __init__(self, n_layers: int, capacity: int) -> None:
        self.layers = [LayerCache(capacity) for _ in range(n_layers)]

    @property
    def length(self) -> int:
        """Tokens held."""
        return self.layers[0].length

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens. Where layers forget what lies far back, SLACK can be taken back."""
        if any(layer.begin > max(0, length - layer.reach) for layer in self.layers if layer.reach is not None):
            raise LuthierError(f"the cache has forgotten what token {length} sees: read the text again")
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
            held = max(0, count - layer.begin)  # those of them that are still there
            layer.begin = max(0, layer.begin - count)
            layer.length -= count
            layer.capacity -= count
            if layer.buffers is not None:
                keys, values = layer.buffers
                layer.buffers = (keys[:, :, held:], values[:, :, held:])
