"""A Transformer as step.cpp reads it: pointers to its weights, and the step of a few tokens through all its layers.

layout.py has the structures.

Shapes: B texts, T new tokens of each, S slots (padding and tokens), K key heads, D head_dim, V vocab_size.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from luthier.model.cache import KVCache
from luthier.model.feed_forward import FeedForward, SwiGLU
from luthier.model.norm import RMSNorm
from luthier.model.rope import Rope
from luthier.model.transformer import Block, Transformer
from luthier.native.build import library
from luthier.native.layout import WIDTH, Cache, Call, Kind, Layer, Matrix, Model, Norm, Row
from luthier.quantize.linear import LANES, Int4Linear, Int8Linear, packing_is_known


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
        self.compiled = compiled
        self.kept: list[Tensor] = []  # what pointers point to
        first = model.layers[0].attention
        dim, hidden = model.embedding.weight.shape[1], model.layers[0].feed_forward
        if not isinstance(hidden, SwiGLU | FeedForward):
            raise Unfit
        hidden_dim = sizes_of(hidden.up)[0]
        if any(width % WIDTH for width in (dim, hidden_dim, first.head_dim)):
            raise Unfit
        windows = [block.attention.mask.window for block in model.layers]
        self.window = min((window for window in windows if window is not None), default=None)
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
        return self.window is None or slots <= self.window

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
        call = Call(
            ctypes.pointer(self.model), (Row * len(rows))(*rows), len(rows), (Cache * len(caches))(*caches),
            out.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        self.compiled.step(ctypes.byref(call))
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
                return Matrix(Kind.INT4, rows, columns, self.pointer(module.packed), scales, bias)
            case Int8Linear():
                return Matrix(Kind.INT8, rows, columns, self.pointer(module.numbers), self.pointer(module.scales), bias)
            case nn.Linear() if module.weight.dtype == torch.bfloat16:
                return Matrix(Kind.BF16, rows, columns, self.pointer(module.weight), None, bias)
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
        if (attention.head_dim, attention.value_dim) != (head_dim, head_dim):
            raise Unfit
        if attention.softcap is not None or attention.sinks is not None:
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
