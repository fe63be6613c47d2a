"""A Transformer as step.cpp reads it: pointers to its weights, and the step of a few tokens through all its layers.

Shapes: B texts, T new tokens of each, S slots (padding and tokens), K key heads, D head_dim, V vocab_size.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_float, c_int64, c_void_p

import torch
from torch import Tensor, nn

from luthier.model.cache import KVCache
from luthier.model.feed_forward import FeedForward, SwiGLU
from luthier.model.norm import RMSNorm
from luthier.model.position import Rope
from luthier.model.transformer import Block, Transformer
from luthier.native.build import library
from luthier.quantize.linear import LANES, Int4Linear, Int8Linear, packing_is_known

WIDTH = 32  # numbers that every width must be a multiple of


class Matrix(Structure):
    """N x K numbers of a kind: 0 bfloat16, 1 int8, 2 int4."""

    _fields_ = [("kind", c_int64), ("rows", c_int64), ("columns", c_int64), ("numbers", c_void_p),
                ("scales", c_void_p), ("bias", c_void_p)]  # fmt: skip


class Norm(Structure):
    """Layer norm, or RMS norm, which has no bias."""

    _fields_ = [("weight", c_void_p), ("bias", c_void_p), ("eps", c_float)]


class Layer(Structure):
    """A block."""

    _fields_ = [("attention_norm", Norm), ("feed_forward_norm", Norm), ("query", Matrix), ("key", Matrix),
                ("value", Matrix), ("output", Matrix), ("gate", Matrix), ("up", Matrix), ("down", Matrix),
                ("scale", c_float)]  # fmt: skip


class Model(Structure):
    """All of it."""

    _fields_ = [("n_layers", c_int64), ("dim", c_int64), ("hidden_dim", c_int64), ("n_heads", c_int64),
                ("n_kv_heads", c_int64), ("head_dim", c_int64), ("layers", POINTER(Layer)), ("embedding", c_void_p),
                ("position_embedding", c_void_p), ("cos", c_void_p), ("sin", c_void_p), ("norm", Norm),
                ("output", Matrix)]  # fmt: skip


class Row(Structure):
    """A new token: of which text, in which slot, and where its text begins."""

    _fields_ = [("token", c_int64), ("text", c_int64), ("slot", c_int64), ("start", c_int64),
                ("wanted", c_int64)]  # fmt: skip


class Cache(Structure):
    """Keys and values of a layer."""

    _fields_ = [("keys", c_void_p), ("values", c_void_p), ("capacity", c_int64)]


class Unfit(Exception):  # noqa: N818 - never seen outside: it turns into None
    """A part that step.cpp does not know."""


def native_step(model: Transformer, positions: int) -> NativeStep | None:
    """The step of a model for texts of up to so many tokens; None where it cannot be had: another processor, no
    compiler, weights that are not in bfloat16 (or packed), or a part that step.cpp does not know, as experts.
    """
    weight = model.embedding.weight
    if weight.dtype != torch.bfloat16 or weight.device.type != "cpu":
        return None
    compiled = library()
    if compiled is None:
        return None
    try:
        return NativeStep(compiled, model, positions)
    except Unfit:
        return None


class NativeStep:
    """A model's weights, as they lie in memory, and the compiled step over them."""

    def __init__(self, compiled: ctypes.CDLL, model: Transformer, positions: int) -> None:
        """Raises Unfit."""
        compiled.layout.restype = c_int64
        sizes = [ctypes.sizeof(kind) for kind in (Layer, Model, Matrix)]
        assert compiled.layout() == sizes[0] * 1_000_000 + sizes[1] * 1000 + sizes[2], "the structures differ"
        self.compiled = compiled
        self.kept: list[Tensor] = []  # what pointers point to
        first = model.layers[0].attention
        dim, hidden = model.embedding.weight.shape[1], model.layers[0].feed_forward
        if not isinstance(hidden, SwiGLU | FeedForward):
            raise Unfit
        hidden_dim = sizes_of(hidden.up)[0]
        if any(width % WIDTH for width in (dim, hidden_dim, first.head_dim)):
            raise Unfit
        self.reach = min((rule.reach for rule in model.mask_rules if rule.reach is not None), default=None)
        self.n_kv_heads, self.head_dim, self.vocab_size = first.n_kv_heads, first.head_dim, sizes_of(model.output)[0]
        ropes = {rope_of(block) for block in model.layers}
        if len(ropes) > 1:
            raise Unfit
        cos, sin = self.turns(model.layers[0], positions)
        layers = (Layer * len(model.layers))(*(self.layer(block, first.head_dim) for block in model.layers))
        table = model.position_embedding
        self.model = Model(
            len(model.layers), dim, hidden_dim, first.n_heads, first.n_kv_heads, first.head_dim, layers,
            self.pointer(model.embedding.weight), None if table is None else self.pointer(table.weight), cos, sin,
            self.norm(model.norm), self.matrix(model.output),
        )  # fmt: skip

    def fits(self, slots: int) -> bool:
        """Whether a step over so many slots is one for step.cpp: one where no layer sees less than all."""
        return self.reach is None or slots <= self.reach

    def logits(self, tokens: Tensor, cache: KVCache, padding: Sequence[int], count: int) -> Tensor:
        """Read new tokens (B, T), which the cache then holds. The logits after the last `count`, (B, count, V) float32.

        padding: slots before each text, none of them among the last `count`.
        """
        texts, new = tokens.shape
        rows = [
            Row(token, text, cache.length + i, padding[text], i >= new - count)
            for text, ids in enumerate(tokens.tolist())
            for i, token in enumerate(ids)
            if cache.length + i >= padding[text]
        ]
        caches = []
        for layer in cache.layers:
            if layer.buffers is None:
                size = (texts, self.n_kv_heads, layer.capacity, self.head_dim)
                make = torch.zeros if any(padding) else torch.empty  # PyTorch, should it go on, multiplies padding too
                layer.buffers = (make(size, dtype=torch.bfloat16), make(size, dtype=torch.bfloat16))
            assert layer.length + new <= layer.capacity, "the cache is full"
            keys, values = layer.buffers
            assert keys.dtype == torch.bfloat16
            caches.append(Cache(keys.data_ptr(), values.data_ptr(), keys.stride(1) // self.head_dim))
        out = torch.empty(texts, count, self.vocab_size)
        self.compiled.step(
            ctypes.byref(self.model), (Row * len(rows))(*rows), c_int64(len(rows)), (Cache * len(caches))(*caches),
            c_void_p(out.data_ptr()), c_int64(torch.get_num_threads()),
        )  # fmt: skip
        for layer in cache.layers:
            layer.length += new
        return out

    def pointer(self, tensor: Tensor, dtype: torch.dtype | None = None) -> int:
        """Where a tensor's numbers lie, as they are or in another type."""
        kept = tensor.detach().to(dtype or tensor.dtype).contiguous()
        self.kept.append(kept)
        return kept.data_ptr()

    def matrix(self, module: nn.Module) -> Matrix:
        """A linear layer of any kind."""
        rows, columns = sizes_of(module)
        if columns % WIDTH:
            raise Unfit
        given = module.bias
        bias = self.pointer(given, torch.float32) if isinstance(given, Tensor) else None
        match module:
            case Int4Linear() if rows % LANES == 0 and packing_is_known():
                scales = self.pointer(module.scales_and_zeros)
                return Matrix(2, rows, columns, self.pointer(module.packed), scales, bias)
            case Int8Linear():
                return Matrix(1, rows, columns, self.pointer(module.numbers), self.pointer(module.scales), bias)
            case nn.Linear() if module.weight.dtype == torch.bfloat16:
                return Matrix(0, rows, columns, self.pointer(module.weight), None, bias)
        raise Unfit

    def norm(self, module: nn.Module) -> Norm:
        """RMS norm, or layer norm with its bias."""
        match module:
            case RMSNorm():
                return Norm(self.pointer(module.weight, torch.float32), None, module.eps)
            case nn.LayerNorm() if module.bias is not None:
                bias = self.pointer(module.bias, torch.float32)
                return Norm(self.pointer(module.weight, torch.float32), bias, module.eps)
        raise Unfit

    def layer(self, block: Block, head_dim: int) -> Layer:
        """One block."""
        attention, hidden = block.attention, block.feed_forward
        match hidden:
            case SwiGLU():
                gate = self.matrix(hidden.gate)
            case FeedForward():
                gate = Matrix()
            case _:
                raise Unfit
        if attention.head_dim != head_dim:
            raise Unfit
        matrices = map(self.matrix, (attention.query, attention.key, attention.value, attention.output))
        norms = map(self.norm, (block.attention_norm, block.feed_forward_norm))
        return Layer(*norms, *matrices, gate, self.matrix(hidden.up), self.matrix(hidden.down), attention.scale)

    def turns(self, block: Block, positions: int) -> tuple[int | None, int | None]:
        """Cosines and sines of all positions, (positions, D / 2) float32 each."""
        rope = next(iter(block.attention.qk_steps), None)
        if not isinstance(rope, Rope):
            return None, None
        angles = torch.arange(positions).float()[:, None] * rope.frequencies()
        return self.pointer(angles.cos()), self.pointer(angles.sin())


def rope_of(block: Block) -> tuple[object, ...] | None:
    """What a block's rotation depends on; None without one. Raises Unfit for any other step on q and k."""
    steps = list(block.attention.qk_steps)
    if not steps:
        return None
    [rope, *more] = steps
    if more or not isinstance(rope, Rope):
        raise Unfit
    return rope.head_dim, rope.theta, rope.scaling


def sizes_of(module: nn.Module) -> tuple[int, int]:
    """(out, in) of a linear layer."""
    if not isinstance(module, nn.Linear | Int8Linear | Int4Linear):
        raise Unfit
    return module.out_features, module.in_features
