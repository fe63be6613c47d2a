"""ctypes structures shared with step.cpp, as in layout.h; `difference` compares the two definitions.

Shapes: N x K a matrix, C dim, D head_dim, V vocab_size.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_float, c_int64, c_void_p
from enum import IntEnum
from itertools import zip_longest

WIDTH = 32  # every width is a multiple of this
GROUP = 32  # values of a row that share a scale
LANES = 16  # rows of a quantized matrix that are interleaved


class Kind(IntEnum):
    """Type of a matrix's weights: bfloat16 or one of GGUF's block formats, numbered as in GGUF."""

    BF16 = 30
    Q4_0 = 2
    Q4_1 = 3
    Q8_0 = 8
    Q4_K = 12
    Q6_K = 14


class Matrix(Structure):
    """N x K weights of a kind, and an optional bias. wide: see BlockLinear."""

    _fields_ = [("kind", c_int64), ("rows", c_int64), ("columns", c_int64), ("data", c_void_p),
                ("bias", c_void_p), ("wide", c_int64)]  # fmt: skip


class Norm(Structure):
    """Layer norm, or RMS norm where the bias is null; none where the weight is null too. scale: of the result; offset:
    added to the weight.
    """

    _fields_ = [("weight", c_void_p), ("bias", c_void_p), ("eps", c_float), ("scale", c_float),
                ("offset", c_float)]  # fmt: skip


class Layer(Structure):
    """A Transformer block. A gate whose data is null means GELU instead of SwiGLU. query_norm, key_norm: of each head.

    attention_post, feed_forward_post, attention_scale, feed_forward_scale: norms and factors of what is added to the
    residual stream. scale: of attention scores. norm_over_heads: query_norm and key_norm are over all heads. gelu_gate:
    the gate has GELU. cos, sin (positions, D / 2): null where queries and keys are not rotated.
    """

    _fields_ = [("attention_norm", Norm), ("feed_forward_norm", Norm), ("query_norm", Norm), ("key_norm", Norm),
                ("attention_post", Norm), ("feed_forward_post", Norm), ("query", Matrix), ("key", Matrix),
                ("value", Matrix), ("output", Matrix), ("gate", Matrix), ("up", Matrix), ("down", Matrix),
                ("scale", c_float), ("attention_scale", c_float), ("feed_forward_scale", c_float),
                ("norm_over_heads", c_int64), ("gelu_gate", c_int64), ("cos", c_void_p),
                ("sin", c_void_p)]  # fmt: skip


class Model(Structure):
    """All weights. position_embedding (positions, C) bfloat16."""

    _fields_ = [("n_layers", c_int64), ("dim", c_int64), ("hidden_dim", c_int64), ("n_heads", c_int64),
                ("n_kv_heads", c_int64), ("head_dim", c_int64), ("layers", POINTER(Layer)), ("embedding", Matrix),
                ("position_embedding", c_void_p), ("norm", Norm),
                ("output", Matrix), ("embedding_scale", c_float)]  # fmt: skip


class Row(Structure):
    """A new token: its sequence, its slot and its sequence's first slot in the cache, whether its logits are needed."""

    _fields_ = [("token", c_int64), ("sequence", c_int64), ("slot", c_int64), ("start", c_int64),
                ("needs_logits", c_int64)]  # fmt: skip


class Cache(Structure):
    """Keys and values of a layer, (sequences, K, capacity, D) bfloat16 each."""

    _fields_ = [("keys", c_void_p), ("values", c_void_p), ("capacity", c_int64)]


class Call(Structure):
    """Arguments of step(): rows (n_rows), caches (n_layers), logits (rows with needs_logits, V) float32, threads."""

    _fields_ = [("model", POINTER(Model)), ("rows", POINTER(Row)), ("n_rows", c_int64), ("caches", POINTER(Cache)),
                ("logits", c_void_p), ("threads", c_int64)]  # fmt: skip


CONSTANTS = {**{kind.name: int(kind) for kind in Kind}, "WIDTH": WIDTH, "GROUP": GROUP, "LANES": LANES}
STRUCTURES: tuple[type[Structure], ...] = (Matrix, Norm, Layer, Model, Row, Cache, Call)


def layout_text() -> str:
    """The same text as `layout_text` of layout.h: a line for each constant, structure and field."""
    lines = [f"{name} {value}" for name, value in CONSTANTS.items()]
    for structure in STRUCTURES:
        lines.append(f"{structure.__name__} {ctypes.sizeof(structure)}")
        for name, *_ in structure._fields_:
            field = getattr(structure, name)
            lines.append(f"{structure.__name__}.{name} {field.offset} {field.size}")
    return "".join(line + "\n" for line in lines)


def difference(compiled: str) -> str | None:
    """Describe the first line in which a compiled library's layout differs from this module's; None where none does."""
    for found, expected in zip_longest(compiled.splitlines(), layout_text().splitlines(), fillvalue="nothing"):
        if found != expected:
            return f"the library has '{found}' where Python has '{expected}'"
    return None
