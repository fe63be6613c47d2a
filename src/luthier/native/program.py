"""A Transformer as step.cpp reads it: pointers to its weights, and the step of a few tokens through all its layers.

layout.py has the structures.

Shapes: B texts, T new tokens of each, S slots (padding and tokens), K key heads, D head_dim, V vocab_size.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence
from operator import is_

import torch
from torch import Tensor, nn

from luthier.model.cache import KVCache
from luthier.model.dropout import Dropout
from luthier.model.feed_forward import FeedForward, SwiGLU
from luthier.model.hook_point import HookPoint
from luthier.model.norm import RMSNorm
from luthier.model.rope import Rope
from luthier.model.transformer import Block, Transformer
from luthier.native.blocks import BlockEmbedding, BlockLinear, size_of
from luthier.native.build import Unavailable, library
from luthier.native.layout import WIDTH, Cache, Call, Kind, Layer, Matrix, Model, Norm, Row
from luthier.native.supported import Snapshot, Unfit, check, numbers_of

log = logging.getLogger(__name__)


def native_step(model: Transformer, positions: int) -> NativeStep | None:
    """The step of a model for texts of up to so many tokens; None where PyTorch must compute it: on another processor,
    without a compiler, with weights that are not in bfloat16 (or packed), or with any module that is not exactly one of
    supported.py. The reason is logged.
    """
    try:
        if model.device.type != "cpu":
            raise Unfit(f"the model is on {model.device}, and the step is for the processor")
        check(model)
        return NativeStep(library(), model, positions)
    except (Unfit, Unavailable) as reason:
        log.debug("PyTorch computes this model, not the compiled step: %s", reason)
        return None


def why_not(model: Transformer) -> str | None:
    """Why PyTorch would compute a model that is built so, in one line; None where the compiled step would. The weights
    may be on the meta device.
    """
    try:
        check(model)
        NativeStep(library(), model, positions=1)
    except (Unfit, Unavailable) as reason:
        return str(reason)
    return None


class NativeStep:
    """A model's weights, as they lie in memory, and the compiled step over them. It may be used while `holds()`."""

    def __init__(self, compiled: ctypes.CDLL, model: Transformer, positions: int) -> None:
        """Takes a model that `check` has passed. Raises Unfit."""
        self.compiled, self.positions = compiled, positions
        self.device = model.device
        self.weights: list[Tensor] = []  # that pointers point to, and that belong to modules
        first, table = model.layers[0].attention, model.position_embedding
        self.dim, self.head_dim = model.embedding.embedding_dim, first.head_dim
        self.n_heads, self.n_kv_heads = first.n_heads, first.n_kv_heads
        self.hidden_dim, _ = sizes_of(model.layers[0].feed_forward.get_submodule("up"))
        self.vocab_size, _ = sizes_of(model.output)
        self.n_tokens = model.embedding.num_embeddings
        if any(width % WIDTH for width in (self.dim, self.hidden_dim, self.head_dim)):
            raise Unfit(
                f"dim {self.dim}, hidden_dim {self.hidden_dim} or head_dim {self.head_dim} is no multiple of {WIDTH}"
            )
        exactly(model.dropout, Dropout)
        windows = [block.attention.mask.window for block in model.layers]
        self.window = min((window for window in windows if window is not None), default=None)
        if len({rope and rope.angles_key for rope in map(rope_of, model.layers)}) > 1:
            raise Unfit("its layers rotate in different ways")
        self.cos, self.sin = turns(model.layers[0], positions)
        if table is not None:
            exactly(table, nn.Embedding)
            self.positions = min(positions, table.num_embeddings)
        layers = (Layer * len(model.layers))(*map(self.layer, model.layers))
        self.model = Model(
            len(model.layers), self.dim, self.hidden_dim, self.n_heads, self.n_kv_heads, self.head_dim, layers,
            self.table(model.embedding),
            None if table is None else self.pointer(table, "weight", (table.num_embeddings, self.dim)),
            None if self.cos is None else self.cos.data_ptr(), None if self.sin is None else self.sin.data_ptr(),
            self.norm(model.norm), self.matrix(model.output, self.vocab_size, self.dim),
        )  # fmt: skip
        self.snapshot = Snapshot(model, self.weights)
        self.buffers: list[tuple[Tensor, ...] | None] = []  # of the cache that was used last
        self.caches = (Cache * 0)()

    def holds(self) -> bool:
        """Whether the model is still the one that the step was made from: a hook, or a weight that moved, ends it."""
        return self.snapshot.holds()

    def fits(self, slots: int) -> bool:
        """Whether a step over so many slots is one for step.cpp: one where no layer sees less than all."""
        return slots <= self.positions and (self.window is None or slots <= self.window)

    def logits(self, tokens: Tensor, cache: KVCache, padding: Sequence[int], count: int) -> Tensor:
        """Read new tokens (B, T), which the cache then holds. The logits after the last `count`, (B, count, V) float32.

        padding: slots before each text, none of them among the last `count`.
        """
        texts, new = tokens.shape
        if not 0 <= int(tokens.min()) <= int(tokens.max()) < self.n_tokens:  # it would read another's memory
            raise IndexError(f"token {int(tokens.max())} is outside the model's vocabulary of {self.n_tokens}")
        rows = [
            Row(token, text, cache.length + i, padding[text], i >= new - count)
            for text, ids in enumerate(tokens.tolist())
            for i, token in enumerate(ids)
            if cache.length + i >= padding[text]
        ]
        for layer in cache.layers:
            if layer.buffers is None:
                size = (texts, self.n_kv_heads, layer.capacity, self.head_dim)
                make = torch.zeros if any(padding) else torch.empty  # PyTorch, should it go on, multiplies padding too
                layer.buffers = (make(size, dtype=torch.bfloat16), make(size, dtype=torch.bfloat16))
            assert layer.length + new <= layer.capacity, "the cache is full"
        out = torch.empty(texts, count, self.vocab_size)
        call = Call(
            ctypes.pointer(self.model), (Row * len(rows))(*rows), len(rows), self.places(cache),
            out.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        self.compiled.step(ctypes.byref(call))
        for layer in cache.layers:
            layer.length += new
        return out

    def places(self, cache: KVCache) -> ctypes.Array[Cache]:
        """Where keys and values lie, layer by layer. Made anew only where the buffers are others."""
        buffers = [layer.buffers for layer in cache.layers]
        if not (len(buffers) == len(self.buffers) and all(map(is_, buffers, self.buffers))):
            made = []
            for keys, values in filter(None, buffers):
                assert keys.dtype == values.dtype == torch.bfloat16
                made.append(Cache(keys.data_ptr(), values.data_ptr(), keys.stride(1) // self.head_dim))
            self.buffers, self.caches = buffers, (Cache * len(made))(*made)
        return self.caches

    def pointer(self, module: nn.Module, name: str, shape: tuple[int, ...]) -> int:
        """Where a weight's numbers lie."""
        tensor = numbers_of(getattr(module, name), f"the {name} of a {type(module).__qualname__}")
        if tensor.device != self.device:
            raise Unfit(f"a {name} is on {tensor.device}, the embedding on {self.device}")
        if tensor.shape != shape:
            raise Unfit(f"a {name} is {tuple(tensor.shape)}, not {shape}")
        self.weights.append(tensor)
        return tensor.data_ptr()

    def table(self, module: nn.Module) -> Matrix:
        """The embedding, of either kind."""
        shape = self.n_tokens, self.dim
        if isinstance(module, BlockEmbedding):
            return Matrix(Kind[module.kind], *shape, self.pointer(module, "numbers", (size_of(module.kind, *shape),)))
        return Matrix(Kind.BF16, *shape, self.pointer(module, "weight", shape))

    def matrix(self, module: nn.Module, rows: int, columns: int) -> Matrix:
        """A linear layer of any kind, (rows, columns)."""
        if sizes_of(module) != (rows, columns) or columns % WIDTH:
            raise Unfit(f"a matrix is {sizes_of(module)}, not ({rows}, {columns}) with {columns} a multiple of {WIDTH}")
        bias = None if module.bias is None else self.pointer(module, "bias", (rows,))
        match module:
            case BlockLinear():
                numbers = self.pointer(module, "numbers", (size_of(module.kind, rows, columns),))
                return Matrix(Kind[module.kind], rows, columns, numbers, bias, module.wide)
            case nn.Linear():
                return Matrix(Kind.BF16, rows, columns, self.pointer(module, "weight", (rows, columns)), bias)
        raise Unfit(f"{type(module).__qualname__} in the place of a matrix")

    def norm(self, module: nn.Module) -> Norm:
        """RMS norm, or layer norm with its bias."""
        match module:
            case RMSNorm():
                return Norm(self.pointer(module, "weight", (self.dim,)), None, module.eps)
            case nn.LayerNorm() if module.weight is not None and module.bias is not None:
                bias = self.pointer(module, "bias", (self.dim,))
                return Norm(self.pointer(module, "weight", (self.dim,)), bias, module.eps)
        raise Unfit(f"{type(module).__qualname__} where it knows RMSNorm, and LayerNorm with a bias")

    def layer(self, block: Block) -> Layer:
        """One block."""
        attention, hidden = block.attention, block.feed_forward
        for dropout in (attention.dropout, block.attention_dropout, block.feed_forward_dropout):
            exactly(dropout, Dropout)
        for post in (block.attention_post, block.feed_forward_post):
            exactly(post, nn.Identity)
        for point in (attention.weights, attention.heads):
            exactly(point, HookPoint)
        if attention.softcap is not None or attention.sinks is not None or attention.value_dim != self.head_dim:
            raise Unfit("its attention has a softcap, sinks, or values of another width than keys")
        shape = attention.head_dim, attention.n_heads, attention.n_kv_heads
        if shape != (self.head_dim, self.n_heads, self.n_kv_heads):
            raise Unfit("its layers have heads of different number or size")
        inner, keys = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        gate = Matrix()
        if isinstance(hidden, SwiGLU):
            gate = self.matrix(hidden.gate, self.hidden_dim, self.dim)
        elif type(hidden) is not FeedForward:
            raise Unfit(f"{type(hidden).__qualname__} where it knows SwiGLU and FeedForward")
        return Layer(
            self.norm(block.attention_norm), self.norm(block.feed_forward_norm),
            self.matrix(attention.query, inner, self.dim), self.matrix(attention.key, keys, self.dim),
            self.matrix(attention.value, keys, self.dim), self.matrix(attention.output, self.dim, inner), gate,
            self.matrix(hidden.up, self.hidden_dim, self.dim), self.matrix(hidden.down, self.dim, self.hidden_dim),
            attention.scale,
        )  # fmt: skip


def turns(block: Block, positions: int) -> tuple[Tensor | None, Tensor | None]:
    """Cosines and sines of all positions, (positions, D / 2) float32 each, as the block's own module makes them."""
    rope = rope_of(block)
    if rope is None:
        return None, None
    angles = rope.angles(torch.arange(positions)[None])
    return angles.cos[0, 0].contiguous(), angles.sin[0, 0].contiguous()


def rope_of(block: Block) -> Rope | None:
    """A block's rotation, or None. Raises Unfit for any other step on q and k."""
    steps = list(block.attention.qk_steps)
    if not steps:
        return None
    [rope, *more] = steps
    if more or not isinstance(rope, Rope):
        raise Unfit("its queries and keys pass through more than a rotation")
    return rope


def exactly(module: nn.Module, kind: type[nn.Module]) -> None:
    """Raise Unfit for another kind of module."""
    if type(module) is not kind:
        raise Unfit(f"{type(module).__qualname__} in the place of {kind.__qualname__}")


def sizes_of(module: nn.Module) -> tuple[int, int]:
    """(out, in) of a linear layer."""
    if not isinstance(module, nn.Linear | BlockLinear):
        raise Unfit(f"{type(module).__qualname__} in the place of a matrix")
    return module.out_features, module.in_features
