"""Running a Transformer with step.cpp: pointers to its weights, and the forward pass of new tokens through all layers.

layout.py has the structures.

Shapes: B sequences, T new tokens of each, S slots (padding and tokens), K key heads, D head_dim, V vocab_size.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Hashable, Sequence
from operator import is_

import torch
from torch import Tensor, nn

from luthier.model.cache import KVCache
from luthier.model.dropout import Dropout
from luthier.model.feed_forward import FeedForward, GeGLU, SwiGLU
from luthier.model.hook_point import HookPoint
from luthier.model.norm import OffsetRMSNorm, RMSNorm, ScaledRMSNorm
from luthier.model.qk_norm import AllHeadsNorm, HeadNorm
from luthier.model.rope import Rope
from luthier.model.scale import RoundedScaleEmbedding, Scale, ScaledEmbedding
from luthier.model.transformer import Block, Transformer
from luthier.native.blocks import BlockEmbedding, BlockLinear, packed_size
from luthier.native.build import Unavailable, library
from luthier.native.layout import WIDTH, Cache, Call, Kind, Layer, Matrix, Model, Norm, Row
from luthier.native.supported import Snapshot, Unsupported, check_supported, readable_weight

log = logging.getLogger(__name__)


def native_step(model: Transformer, positions: int) -> NativeStep | None:
    """The compiled step of a model for up to `positions` tokens; None where it is not supported: on another processor,
    without a compiler, with weights that are neither bfloat16 nor quantized, or with a module that supported.py does
    not list. The reason is logged.
    """
    try:
        if model.device.type != "cpu":
            raise Unsupported(f"the model is on {model.device}, and the step is for the CPU")
        check_supported(model)
        return NativeStep(library(), model, positions)
    except (Unsupported, Unavailable) as reason:
        log.debug("PyTorch computes this model, not the compiled step: %s", reason)
        return None


def unsupported_reason(model: Transformer) -> str | None:
    """The reason why the compiled step does not support a model, in one line; None if it does. The weights may be on
    the meta device.
    """
    try:
        check_supported(model)
        NativeStep(library(), model, positions=1)
    except (Unsupported, Unavailable) as reason:
        return str(reason)
    return None


class NativeStep:
    """The compiled step of a model, which reads its weights in place. May be used while `is_valid()`."""

    def __init__(self, compiled: ctypes.CDLL, model: Transformer, positions: int) -> None:
        """model: one that has passed `check_supported`. Raises Unsupported."""
        self.compiled, self.positions = compiled, positions
        self.device = model.device
        self.weights: list[Tensor] = []  # the modules' tensors that the pointers refer to
        first, table = model.layers[0].attention, model.position_embedding
        self.dim, self.head_dim = model.embedding.embedding_dim, first.head_dim
        self.n_heads, self.n_kv_heads = first.n_heads, first.n_kv_heads
        self.hidden_dim, _ = linear_shape(model.layers[0].feed_forward.get_submodule("up"))
        self.vocab_size, _ = linear_shape(model.output)
        self.n_tokens = model.embedding.num_embeddings
        if any(width % WIDTH for width in (self.dim, self.hidden_dim, self.head_dim)):
            raise Unsupported(
                f"dim {self.dim}, hidden_dim {self.hidden_dim} or head_dim {self.head_dim} is no multiple of {WIDTH}"
            )
        require_class(model.dropout, Dropout)
        windows = [block.attention.mask.window for block in model.layers]
        self.window = min((window for window in windows if window is not None), default=None)
        self.tables: dict[Hashable, tuple[Tensor, Tensor]] = {}  # cosines and sines, of each way that layers rotate
        if table is not None:
            require_class(table, nn.Embedding)
            self.positions = min(positions, table.num_embeddings)
        layers = (Layer * len(model.layers))(*map(self.layer, model.layers))
        self.model = Model(
            len(model.layers), self.dim, self.hidden_dim, self.n_heads, self.n_kv_heads, self.head_dim, layers,
            self.embedding(model.embedding),
            None if table is None else self.pointer(table, "weight", (table.num_embeddings, self.dim)),
            self.norm(model.norm), self.matrix(model.output, self.vocab_size, self.dim),
            scale_of(model.embedding),
        )  # fmt: skip
        self.snapshot = Snapshot(model, self.weights)
        self.buffers: list[tuple[Tensor, ...] | None] = []  # of the last cache used
        self.caches = (Cache * 0)()

    def is_valid(self) -> bool:
        """Whether the model is unchanged: false after a hook was added or a weight moved, for example."""
        return self.snapshot.is_valid()

    def fits(self, slots: int) -> bool:
        """Whether step.cpp supports this many slots: only while no layer's window or chunk hides a key."""
        return slots <= self.positions and (self.window is None or slots <= self.window)

    def logits(self, tokens: Tensor, cache: KVCache, padding: Sequence[int], count: int) -> Tensor:
        """Process new tokens (B, T), appending them to the cache. Logits of the last `count`, (B, count, V) float32.

        padding: number of padding slots before each sequence, none of them among the last `count`.
        """
        n_sequences, new = tokens.shape
        if not 0 <= int(tokens.min()) <= int(tokens.max()) < self.n_tokens:  # it would read out of bounds
            raise IndexError(f"token {int(tokens.max())} is outside the model's vocabulary of {self.n_tokens}")
        rows = [
            Row(token, sequence, cache.length + i, padding[sequence], i >= new - count)
            for sequence, ids in enumerate(tokens.tolist())
            for i, token in enumerate(ids)
            if cache.length + i >= padding[sequence]
        ]
        for layer in cache.layers:
            if layer.buffers is None:
                size = (n_sequences, self.n_kv_heads, layer.capacity, self.head_dim)
                make = torch.zeros if any(padding) else torch.empty  # PyTorch, if it continues, multiplies padding too
                layer.buffers = (make(size, dtype=torch.bfloat16), make(size, dtype=torch.bfloat16))
            assert layer.length + new <= layer.capacity, "the cache is full"
        out = torch.empty(n_sequences, count, self.vocab_size)
        call = Call(
            ctypes.pointer(self.model), (Row * len(rows))(*rows), len(rows), self.layer_caches(cache),
            out.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        self.compiled.step(ctypes.byref(call))
        for layer in cache.layers:
            layer.length += new
        return out

    def layer_caches(self, cache: KVCache) -> ctypes.Array[Cache]:
        """Pointers to the keys and values of each layer, rebuilt only if the buffers have changed."""
        buffers = [layer.buffers for layer in cache.layers]
        if not (len(buffers) == len(self.buffers) and all(map(is_, buffers, self.buffers))):
            made = []
            for keys, values in filter(None, buffers):
                assert keys.dtype == values.dtype == torch.bfloat16
                made.append(Cache(keys.data_ptr(), values.data_ptr(), keys.stride(1) // self.head_dim))
            self.buffers, self.caches = buffers, (Cache * len(made))(*made)
        return self.caches

    def pointer(self, module: nn.Module, name: str, shape: tuple[int, ...]) -> int:
        """Address of a weight's data. Raises Unsupported for another device, shape or layout."""
        tensor = readable_weight(getattr(module, name), f"the {name} of a {type(module).__qualname__}")
        if tensor.device != self.device:
            raise Unsupported(f"a {name} is on {tensor.device}, the embedding on {self.device}")
        if tensor.shape != shape:
            raise Unsupported(f"a {name} is {tuple(tensor.shape)}, not {shape}")
        self.weights.append(tensor)
        return tensor.data_ptr()

    def embedding(self, module: nn.Module) -> Matrix:
        """The embedding, plain or quantized."""
        shape = self.n_tokens, self.dim
        if isinstance(module, BlockEmbedding):
            return Matrix(
                Kind[module.kind], *shape, self.pointer(module, "packed_weight", (packed_size(module.kind, *shape),))
            )
        return Matrix(Kind.BF16, *shape, self.pointer(module, "weight", shape))

    def matrix(self, module: nn.Module, rows: int, columns: int) -> Matrix:
        """A linear layer (rows, columns), plain or quantized."""
        if linear_shape(module) != (rows, columns) or columns % WIDTH:
            raise Unsupported(
                f"a matrix is {linear_shape(module)}, not ({rows}, {columns}) with {columns} a multiple of {WIDTH}"
            )
        bias = None if module.bias is None else self.pointer(module, "bias", (rows,))
        match module:
            case BlockLinear():
                data = self.pointer(module, "packed_weight", (packed_size(module.kind, rows, columns),))
                return Matrix(Kind[module.kind], rows, columns, data, bias, module.wide)
            case nn.Linear():
                return Matrix(Kind.BF16, rows, columns, self.pointer(module, "weight", (rows, columns)), bias)
        raise Unsupported(f"{type(module).__qualname__} instead of a linear layer")

    def norm(self, module: nn.Module, width: int | None = None) -> Norm:
        """RMS norm, or layer norm with a bias. width: `dim` unless given."""
        shape = (self.dim if width is None else width,)
        match module:
            case nn.Identity():
                return Norm()
            case RMSNorm():
                scale = module.scale if isinstance(module, ScaledRMSNorm) else 1
                offset = 1 if isinstance(module, OffsetRMSNorm) else 0
                return Norm(self.pointer(module, "weight", shape), None, module.eps, scale, offset)
            case nn.LayerNorm() if module.weight is not None and module.bias is not None:
                bias = self.pointer(module, "bias", shape)
                return Norm(self.pointer(module, "weight", shape), bias, module.eps, 1, 0)
        raise Unsupported(f"{type(module).__qualname__} instead of RMSNorm, or LayerNorm with a bias")

    def layer(self, block: Block) -> Layer:
        """A Transformer block."""
        attention, hidden = block.attention, block.feed_forward
        for dropout in (attention.dropout, block.attention_dropout, block.feed_forward_dropout):
            require_class(dropout, Dropout)
        for point in (attention.weights, attention.heads):
            require_class(point, HookPoint)
        if attention.softcap is not None or attention.sinks is not None or attention.value_dim != self.head_dim:
            raise Unsupported("its attention has a softcap, sinks, or values of another width than keys")
        shape = attention.head_dim, attention.n_heads, attention.n_kv_heads
        if shape != (self.head_dim, self.n_heads, self.n_kv_heads):
            raise Unsupported("its layers have heads of different number or size")
        inner, keys = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        gate = Matrix()
        if isinstance(hidden, SwiGLU):
            gate = self.matrix(hidden.gate, self.hidden_dim, self.dim)
        elif type(hidden) is not FeedForward:
            raise Unsupported(f"{type(hidden).__qualname__} instead of SwiGLU or FeedForward")
        qk_norm, rope = qk_steps_of(block)
        over_heads = isinstance(qk_norm, AllHeadsNorm)
        query_norm, key_norm = Norm(), Norm()
        if qk_norm is not None:
            query_norm = self.norm(qk_norm.query, inner if over_heads else self.head_dim)
            key_norm = self.norm(qk_norm.key, keys if over_heads else self.head_dim)
        posts = [
            (Norm(), post.factor) if isinstance(post, Scale) else (self.norm(post), 1.0)
            for post in (block.attention_post, block.feed_forward_post)
        ]
        cos, sin = self.rope_tables(rope)
        return Layer(
            self.norm(block.attention_norm), self.norm(block.feed_forward_norm), query_norm, key_norm,
            posts[0][0], posts[1][0],
            self.matrix(attention.query, inner, self.dim), self.matrix(attention.key, keys, self.dim),
            self.matrix(attention.value, keys, self.dim), self.matrix(attention.output, self.dim, inner), gate,
            self.matrix(hidden.up, self.hidden_dim, self.dim), self.matrix(hidden.down, self.dim, self.hidden_dim),
            attention.scale, posts[0][1], posts[1][1], over_heads, isinstance(hidden, GeGLU), cos, sin,
        )  # fmt: skip

    def rope_tables(self, rope: Rope | None) -> tuple[int | None, int | None]:
        """Addresses of the cosines and sines of all positions, (positions, D / 2) float32 each, which the model's own
        module computes.
        """
        if rope is None:
            return None, None
        if rope.angles_key not in self.tables:
            angles = rope.angles(torch.arange(self.positions)[None])
            self.tables[rope.angles_key] = angles.cos[0, 0].contiguous(), angles.sin[0, 0].contiguous()
        cos, sin = self.tables[rope.angles_key]
        return cos.data_ptr(), sin.data_ptr()


def qk_steps_of(block: Block) -> tuple[HeadNorm | AllHeadsNorm | None, Rope | None]:
    """A block's norm of queries and keys and its RoPE, in this order, or None. Raises Unsupported for other steps."""
    match list(block.attention.qk_steps):
        case []:
            return None, None
        case [Rope() as rope]:
            return None, rope
        case [(HeadNorm() | AllHeadsNorm()) as norm]:
            return norm, None
        case [(HeadNorm() | AllHeadsNorm()) as norm, Rope() as rope]:
            return norm, rope
    raise Unsupported("its queries and keys have other steps than a norm and RoPE")


def scale_of(embedding: nn.Module) -> float:
    """What an embedding's output is multiplied by."""
    if isinstance(embedding, RoundedScaleEmbedding):  # to the type of its weights: a step reads bfloat16
        return float(torch.tensor(embedding.scale, dtype=torch.bfloat16))
    return embedding.scale if isinstance(embedding, ScaledEmbedding) else 1.0


def require_class(module: nn.Module, kind: type[nn.Module]) -> None:
    """Raise Unsupported for a module of another class."""
    if type(module) is not kind:
        raise Unsupported(f"{type(module).__qualname__} instead of {kind.__qualname__}")


def linear_shape(module: nn.Module) -> tuple[int, int]:
    """(out, in) of a linear layer."""
    if not isinstance(module, nn.Linear | BlockLinear):
        raise Unsupported(f"{type(module).__qualname__} instead of a linear layer")
    return module.out_features, module.in_features
