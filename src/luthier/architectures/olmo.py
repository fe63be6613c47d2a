"""OLMo 2 (arXiv 2501.00656) and OLMo 3 (arXiv 2512.13961): post-norms, and QK-norm over all heads.

OLMo 3 has sliding windows on three of four layers, and RoPE scaling on the other layers only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from luthier.architectures import config_json, gguf_metadata, llama_like_names, llama_like_settings, windows
from luthier.architectures.checked_values import LARGEST_CONTEXT, CheckedValues
from luthier.architectures.family import Family, FormatSpec
from luthier.architectures.initialize import empty_embedding, initialize_normal
from luthier.architectures.llama_like_names import BLOCK, GGUF, HUGGING_FACE
from luthier.architectures.settings import (
    CustomSetting,
    Reading,
    Setting,
    SettingList,
    Unsupported,
    flag,
    head_dim,
)
from luthier.errors import LuthierError
from luthier.formats.weight_table import Rule, Table, each_layer
from luthier.model.attention import Attention
from luthier.model.feed_forward import SwiGLU
from luthier.model.norm import RMSNorm
from luthier.model.qk_norm import AllHeadsNorm
from luthier.model.rope import rope
from luthier.model.rope_scaling import RopeScaling
from luthier.model.transformer import Block, Transformer


@dataclass(frozen=True)
class Config:
    """Configuration of an OLMo model. The defaults are OLMo 2 7B."""

    vocab_size: int = 100_352
    """Entries of the vocabulary."""
    context_length: int = 4096
    """Tokens."""
    dim: int = 4096
    """Width of the residual stream."""
    hidden_dim: int = 11_008
    """Width of the feed-forward."""
    n_layers: int = 32
    """Blocks."""
    n_heads: int = 32
    """Query heads."""
    n_kv_heads: int = 32
    """Key and value heads, each shared by n_heads / n_kv_heads query heads."""
    head_dim: int | None = None
    """Width of a head; dim / n_heads unless given."""
    norm_eps: float = 1e-6
    """Added to the mean square in RMS norm."""
    rope_theta: float = 500_000.0
    """Base of the rotary wavelengths."""
    rope_scaling: RopeScaling | None = None
    """RoPE scaling for a context longer than the one trained on."""
    tie_embeddings: bool = False
    """Use the token embedding as the output matrix."""
    dropout: float = 0.0
    """Probability, in training only. OLMo itself uses none."""
    window: int | None = None
    """Sliding window in tokens, the query's own included; none unless given."""
    global_layers: tuple[int, ...] | None = None
    """The layers with global attention despite the window, counted from 0; none unless given."""
    attention_bias: bool = False
    """Biases on queries, keys, values and the output of attention."""


def third_generation(dim: int, hidden_dim: int, n_layers: int, n_heads: int, n_kv_heads: int) -> Config:
    """A published OLMo 3."""
    return Config(
        100_278,
        65_536,
        dim,
        hidden_dim,
        n_layers,
        n_heads,
        n_kv_heads,
        rope_scaling=RopeScaling(8.0, original_context_length=8192, kind="yarn"),
        window=4096,
        global_layers=tuple(range(3, n_layers, 4)),
    )


SIZES = {
    "olmo2-1b": Config(dim=2048, hidden_dim=8192, n_layers=16, n_heads=16, n_kv_heads=16),
    "olmo2-7b": Config(),
    "olmo2-13b": Config(dim=5120, hidden_dim=13_824, n_layers=40, n_heads=40, n_kv_heads=40),
    "olmo2-32b": Config(dim=5120, hidden_dim=27_648, n_layers=64, n_heads=40, n_kv_heads=8),
    "olmo3-7b": third_generation(4096, 11_008, 32, 32, 32),
    "olmo3-32b": third_generation(5120, 27_648, 64, 40, 8),
    # small enough to train on a CPU; vocab_size is replaced by the tokenizer's
    "olmo-nano": Config(512, 128, 128, 352, 4, 4, 2, rope_theta=1e4, tie_embeddings=True),
    "olmo-micro": Config(2048, 256, 192, 512, 6, 6, 2, rope_theta=1e4, tie_embeddings=True),
    "olmo-mini": Config(4096, 256, 384, 1024, 8, 6, 2, rope_theta=1e4, tie_embeddings=True),
}


def build(config: Config) -> Transformer:
    """The model, with uninitialized weights (see registry.build)."""
    return Transformer(
        empty_embedding(config.vocab_size, config.dim),
        [build_block(config, layer) for layer in range(config.n_layers)],
        RMSNorm(config.dim, config.norm_eps),
        tie_embeddings=config.tie_embeddings,
        dropout=config.dropout,
    )


def build_block(config: Config, layer: int) -> Block:
    """The block of a layer, counted from 0: with post-norms and without pre-norms."""
    width, eps = head_dim(config), config.norm_eps
    scaling = None if windows.has_window(config, layer) else config.rope_scaling
    magnitude = scaling.magnitude if scaling else 1.0  # multiplies queries and keys
    return Block(
        nn.Identity(),
        Attention(
            config.dim,
            config.n_heads,
            config.n_kv_heads,
            config.head_dim,
            qk_steps=(
                AllHeadsNorm(RMSNorm(config.n_heads * width, eps), RMSNorm(config.n_kv_heads * width, eps)),
                rope(width, config.rope_theta, scaling),
            ),
            mask=windows.mask_of(config, layer),
            scale=width**-0.5 * magnitude**2,
            bias=config.attention_bias,
            out_bias=config.attention_bias,
            dropout=config.dropout,
        ),
        nn.Identity(),
        SwiGLU(config.dim, config.hidden_dim),
        dropout=config.dropout,
        attention_post=RMSNorm(config.dim, eps),
        feed_forward_post=RMSNorm(config.dim, eps),
    )


def initialize(model: Transformer, config: Config, generator: torch.Generator) -> None:
    """N(0, 0.02) everywhere, as in the report: post-norms determine the scale of the residual outputs."""
    initialize_normal(model, generator, std=0.02, residual_scale=1.0)


NORMS = ("attention.qk_steps.0.query", "attention.qk_steps.0.key", "attention_post", "feed_forward_post")


def hugging_face_tensors(config: Config) -> Table:
    """Weight table of transformers' Olmo2ForCausalLM and Olmo3ForCausalLM."""
    names = ("self_attn.q_norm", "self_attn.k_norm", "post_attention_layernorm", "post_feedforward_layernorm")
    block = [
        *llama_like_names.hugging_face_attention(config.n_heads, config.n_kv_heads, bias=config.attention_bias),
        *(
            Rule(f"{HUGGING_FACE}{external}.weight", f"{BLOCK}{internal}.weight")
            for external, internal in zip(names, NORMS, strict=True)
        ),
        *llama_like_names.hugging_face_feed_forward("mlp"),
    ]
    return llama_like_names.hugging_face_table(each_layer(range(config.n_layers), block), config.tie_embeddings)


def is_third_generation(values: CheckedValues) -> bool:
    """Whether a config.json is of Olmo3ForCausalLM, which has other defaults."""
    named = values.values.get("model_type") or values.values.get("architectures")
    return "olmo3" in str(named).lower()


def read_rope(reading: Reading) -> dict[str, Any]:
    """RoPE settings: the scaling is for layers without a window; theta is the same for all."""
    values = reading.values
    nested = values.section("rope_parameters").values
    local, scaled = (nested.get(kind) for kind in (windows.WINDOW, windows.GLOBAL))
    usual = values.values if scaled is None else {**values.values, "rope_parameters": scaled}
    flat = CheckedValues(usual, values.source)
    theta = 500_000.0 if is_third_generation(values) else 10_000.0
    context = values.count("max_position_embeddings", 2048, most=LARGEST_CONTEXT)
    base, scaling = config_json.read_rope(flat, theta=theta, context=context)
    values.ignore("rope_parameters", "rope_scaling", "rope_theta", "original_max_position_embeddings")
    if local is not None:
        of_local, local_scaling = config_json.read_rope(
            CheckedValues({"rope_parameters": local, "rope_theta": base}, values.source), theta=theta, context=context
        )
        if of_local != base or local_scaling is not None:
            raise LuthierError(
                f"{values.source}: 'rope_parameters' of {windows.WINDOW} other than rope_theta {base:g} without "
                "scaling are not supported"
            )
    length = config_json.read_context(values, context, scaling)
    return {"context_length": length, "rope_theta": base, "rope_scaling": scaling}


def write_rope(config: Config) -> Mapping[str, Any]:
    """RoPE settings, by layer type if there are windows."""
    flat = config_json.write_rope(config.rope_theta, config.rope_scaling, config.context_length)
    if config.window is None:
        return flat
    plain = {"rope_theta": config.rope_theta, "rope_type": "default"}
    return {**flat, "rope_parameters": {windows.WINDOW: plain, windows.GLOBAL: flat["rope_parameters"]}}


def read_windows(reading: Reading) -> dict[str, Any]:
    """The windows of OLMo 3; OLMo 2 has none."""
    n_layers = reading.fields["n_layers"]
    if not is_third_generation(reading.values):
        return windows.fields_of(None, windows.no_layer, n_layers)
    is_global = windows.read_layer_types(reading, lambda layer: (layer + 1) % 4 == 0)
    return windows.fields_of(windows.read_window(reading, 4096), is_global, n_layers)


def write_windows(config: Config) -> Mapping[str, Any]:
    """The windows, and the class that supports them."""
    if config.window is None:
        return {}
    named = {"architectures": ["Olmo3ForCausalLM"], "model_type": "olmo3"}
    return {**named, "sliding_window": config.window, "layer_types": windows.layer_types(config)}


# defaults: those of transformers' Olmo2Config and Olmo3Config
HUGGING_FACE_SETTINGS: SettingList[Config] = config_json.settings(
    Config,
    "Olmo2ForCausalLM",
    "olmo2",
    *llama_like_settings.hugging_face(eps=1e-5, rope=CustomSetting(read_rope, write_rope)),
    Setting("attention_bias", "attention_bias", flag, default=False),
    CustomSetting(read_windows, write_windows),
)


def gguf_tensors(config: Config) -> Table:
    """Weight table of llama.cpp's architecture "olmo2", whose rotary pairs are halves."""
    names = ("attn_q_norm", "attn_k_norm", "post_attention_norm", "post_ffw_norm")
    block = [
        *llama_like_names.gguf_attention(config.n_heads, config.n_kv_heads, interleaved=False),
        *(
            Rule(f"{GGUF}{external}.weight", f"{BLOCK}{internal}.weight")
            for external, internal in zip(names, NORMS, strict=True)
        ),
        *llama_like_names.gguf_feed_forward(),
    ]
    return llama_like_names.gguf_table([], each_layer(range(config.n_layers), block), tied=False)


PERIOD = 4  # in llama.cpp: every how many layers there is no window, unless the file says it


def period_of(config: Config) -> int | None:
    """The period n of layers without a window (every n-th); None if there is none."""
    layers = config.global_layers or ()
    periods = range(1, config.n_layers + 2)
    return next((n for n in periods if layers == tuple(range(n - 1, config.n_layers, n))), None)


def read_gguf_windows(reading: Reading) -> dict[str, Any]:
    """The window, and the layers without: by period, by a list of flags, or by indices in Luthier's files."""
    values, n_layers = reading.values, reading.fields["n_layers"]
    key = "olmo2.attention.sliding_window"
    window = values.count(key, most=LARGEST_CONTEXT) if values.number(key, 0.0, least=0.0) else None
    name = "olmo2.attention.sliding_window_pattern"
    local = values.value(name, PERIOD)
    if isinstance(local, list):
        if len(local) != n_layers:
            raise LuthierError(f"{values.source}: '{name}' must have {n_layers} flags, it has {len(local)}")
        return windows.fields_of(window, lambda layer: not local[layer], n_layers)
    period = values.count(name, PERIOD)
    fields = windows.fields_of(window, lambda layer: (layer + 1) % period == 0, n_layers)
    own: dict[str, Any] = {}
    if "luthier.global_layers" in values.values:
        gguf_metadata.LayerIndices("luthier.global_layers", "global_layers").read(
            Reading(values, reading.weights, own, values)
        )
    return {**fields, **own}


def write_gguf_windows(config: Config) -> Mapping[str, Any]:
    """The window, and the layers without."""
    if config.window is None:
        return {}
    period, section = period_of(config), "olmo2.attention.sliding_window"
    own = gguf_metadata.LayerIndices("luthier.global_layers", "global_layers").write(config)
    return {section: config.window, **({f"{section}_pattern": period} if period else own)}


GGUF_SETTINGS: SettingList[Config] = gguf_metadata.settings(
    Config,
    "olmo2",
    Unsupported(("attention_bias", "head_dim"), "GGUF has no place for {field} of olmo2: write the model as hf"),
    *llama_like_settings.gguf("olmo2", factors=False),
    CustomSetting(read_gguf_windows, write_gguf_windows),
    CustomSetting(lambda reading: {"tie_embeddings": False}),  # llama.cpp needs the output matrix
)


def caveats(config: Config) -> list[str]:
    """Messages about what llama.cpp would compute differently from this model."""
    if config.window is None or period_of(config) is not None:
        return []
    return ["llama.cpp has windows on all layers but every n-th, this model on others"]


FAMILY = Family(
    "olmo",
    Config,
    SIZES,
    build,
    initialize,
    {
        "hf": FormatSpec(
            hugging_face_tensors,
            HUGGING_FACE_SETTINGS,
            {
                "Olmo2ForCausalLM": "olmo2",
                "Olmo3ForCausalLM": "olmo3",
                "Olmo2Model": "olmo2",
                "Olmo3Model": "olmo3",
            },
        ),
        "gguf": FormatSpec(gguf_tensors, GGUF_SETTINGS, architecture="olmo2", caveats=caveats),
    },
)
