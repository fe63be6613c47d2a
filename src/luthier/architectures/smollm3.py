"""SmolLM3 (Hugging Face, July 2025): Llama's blocks, of which every fourth has no positions (arXiv 2501.18795)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from luthier.architectures import config_json, gguf_metadata, llama_like_names, llama_like_settings, windows
from luthier.architectures.family import Family, FormatSpec
from luthier.architectures.initialize import empty_embedding, initialize_normal
from luthier.architectures.llama_like_names import BLOCK, GGUF
from luthier.architectures.settings import CustomSetting, Ignored, Reading, Setting, SettingList, count, flag, head_dim
from luthier.errors import LuthierError
from luthier.formats.weight_table import Rule, Table, each_layer
from luthier.model.attention import Attention
from luthier.model.feed_forward import SwiGLU
from luthier.model.norm import RMSNorm
from luthier.model.rope import rope
from luthier.model.rope_scaling import RopeScaling
from luthier.model.transformer import Block, Transformer


@dataclass(frozen=True)
class Config:
    """Configuration of a SmolLM3 model. The defaults are SmolLM3 3B."""

    vocab_size: int = 128_256
    """Entries of the vocabulary."""
    context_length: int = 65_536
    """Tokens."""
    dim: int = 2048
    """Width of the residual stream."""
    hidden_dim: int = 11_008
    """Width of the feed-forward."""
    n_layers: int = 36
    """Blocks."""
    n_heads: int = 16
    """Query heads."""
    n_kv_heads: int = 4
    """Key and value heads, each shared by n_heads / n_kv_heads query heads."""
    head_dim: int | None = None
    """Width of a head; dim / n_heads unless given."""
    norm_eps: float = 1e-6
    """Added to the mean square in RMS norm."""
    rope_theta: float = 5_000_000.0
    """Base of the rotary wavelengths."""
    rope_scaling: RopeScaling | None = None
    """RoPE scaling for a context longer than the one trained on."""
    tie_embeddings: bool = True
    """Use the token embedding as the output matrix."""
    dropout: float = 0.0
    """Probability, in training only. SmolLM3 itself uses none."""
    window: int | None = None
    """Sliding window in tokens, the query's own included; none unless given."""
    global_layers: tuple[int, ...] | None = None
    """The layers with global attention despite the window, counted from 0; none unless given."""
    nope_every: int = 4
    """Every how many layers attention has no positions (4: layers 3, 7, ... counted from 0)."""
    nope_layers: tuple[int, ...] | None = None
    """The layers without positions, counted from 0, where nope_every does not say it."""
    attention_bias: bool = False
    """Biases on queries, keys, values and the output of attention."""
    mlp_bias: bool = False
    """Biases on the three matrices of the feed-forward."""

    def has_rope(self, layer: int) -> bool:
        """Whether this layer, counted from 0, has rotary positions."""
        return (layer + 1) % self.nope_every != 0 if self.nope_layers is None else layer not in self.nope_layers


SIZES = {
    "smollm3-3b": Config(),
    # small enough to train on a CPU; vocab_size is replaced by the tokenizer's
    "smollm3-nano": Config(512, 128, 128, 352, 4, 4, 2, rope_theta=1e4),
    "smollm3-micro": Config(2048, 256, 192, 512, 6, 6, 2, rope_theta=1e4),
    "smollm3-mini": Config(4096, 256, 384, 1024, 8, 6, 2, rope_theta=1e4),
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
    """The block of a layer, counted from 0: with rotary positions, or without."""
    turns = config.has_rope(layer)
    magnitude = config.rope_scaling.magnitude if config.rope_scaling and turns else 1.0  # multiplies queries and keys
    return Block(
        RMSNorm(config.dim, config.norm_eps),
        Attention(
            config.dim,
            config.n_heads,
            config.n_kv_heads,
            config.head_dim,
            qk_steps=(rope(head_dim(config), config.rope_theta, config.rope_scaling),) if turns else (),
            mask=windows.mask_of(config, layer),
            scale=head_dim(config) ** -0.5 * magnitude**2,
            bias=config.attention_bias,
            out_bias=config.attention_bias,
            dropout=config.dropout,
        ),
        RMSNorm(config.dim, config.norm_eps),
        SwiGLU(config.dim, config.hidden_dim, bias=config.mlp_bias),
        dropout=config.dropout,
    )


def initialize(model: Transformer, config: Config, generator: torch.Generator) -> None:
    """N(0, 0.02), residual outputs divided by sqrt(2 n_layers). (Its report names no other.)"""
    initialize_normal(model, generator, std=0.02, residual_scale=(2 * config.n_layers) ** -0.5)


def hugging_face_tensors(config: Config) -> Table:
    """Weight table of transformers' SmolLM3ForCausalLM."""
    attention = llama_like_names.hugging_face_attention(config.n_heads, config.n_kv_heads, bias=config.attention_bias)
    feed_forward = llama_like_names.hugging_face_feed_forward("mlp", bias=config.mlp_bias)
    layers = each_layer(range(config.n_layers), llama_like_names.hugging_face_block(attention, feed_forward))
    return llama_like_names.hugging_face_table(layers, config.tie_embeddings)


def read_nope_layers(reading: Reading) -> dict[str, Any]:
    """The layers without RoPE. In `no_rope_layers`, 1 means RoPE."""
    values, n_layers = reading.values, reading.fields["n_layers"]
    step = values.count("no_rope_layer_interval", 4)
    listed = values.integers("no_rope_layers")
    if listed is None:
        return {"nope_every": step, "nope_layers": None}
    if len(listed) < n_layers:
        raise LuthierError(f"config.json: 'no_rope_layers' names {len(listed)} layers of {n_layers}")
    layers = tuple(layer for layer in range(n_layers) if not listed[layer])
    by_step = layers == tuple(range(step - 1, n_layers, step))
    return {"nope_every": step, "nope_layers": None if by_step else layers}


def write_nope_layers(config: Config) -> Mapping[str, Any]:
    """Both ways to say which layers have positions."""
    listed = [int(config.has_rope(layer)) for layer in range(config.n_layers)]
    return {"no_rope_layers": listed, "no_rope_layer_interval": config.nope_every}


def read_windows(reading: Reading) -> dict[str, Any]:
    """Windows: where they are used, of the layers in `layer_types`, without it of those without positions."""
    values, fields = reading.values, reading.fields
    used, window = values.flag("use_sliding_window", False), windows.read_window(reading, None)
    nope, step = fields["nope_layers"], fields["nope_every"]

    def has_rope(layer: int) -> bool:
        return (layer + 1) % step != 0 if nope is None else layer not in nope

    is_global = windows.read_layer_types(reading, has_rope if used else lambda layer: True)
    if not used and not all(map(is_global, range(fields["n_layers"]))):
        raise LuthierError("config.json: 'layer_types' has windows, and 'use_sliding_window' is false")
    return windows.fields_of(window if used else None, is_global, fields["n_layers"])


def write_windows(config: Config) -> Mapping[str, Any]:
    """The settings of windows."""
    return {
        "use_sliding_window": config.window is not None,
        "sliding_window": config.window,
        "layer_types": windows.layer_types(config),
    }


# defaults: those of transformers' SmolLM3Config
HUGGING_FACE_SETTINGS: SettingList[Config] = config_json.settings(
    Config,
    "SmolLM3ForCausalLM",
    "smollm3",
    *llama_like_settings.hugging_face(eps=1e-6, context=32_768, theta=2e6, kv_heads=4, tied=True),
    Setting("attention_bias", "attention_bias", flag, default=False),
    Setting("mlp_bias", "mlp_bias", flag, default=False),
    CustomSetting(read_nope_layers, write_nope_layers),
    CustomSetting(read_windows, write_windows),
    Ignored("max_window_layers"),  # its class in transformers does not read it
)


def gguf_tensors(config: Config) -> Table:
    """Weight table of llama.cpp's architecture "smollm3"."""
    block = [
        Rule(GGUF + "attn_norm.weight", BLOCK + "attention_norm.weight"),
        Rule(GGUF + "ffn_norm.weight", BLOCK + "feed_forward_norm.weight"),
        *llama_like_names.gguf_attention(config.n_heads, config.n_kv_heads, bias=config.attention_bias),
        *llama_like_names.gguf_feed_forward(bias=config.mlp_bias),
    ]
    return llama_like_names.gguf_table([], each_layer(range(config.n_layers), block), config.tie_embeddings)


def read_biases(reading: Reading) -> dict[str, bool]:
    """Which biases a GGUF file has, from the names of its tensors."""
    checkpoint = reading.weights.checkpoint
    return {
        "attention_bias": gguf_metadata.has_bias(checkpoint, "attn_"),
        "mlp_bias": gguf_metadata.has_bias(checkpoint, "ffn_"),
    }


NOPE_EVERY = 4  # in llama.cpp, which has no setting for it
GGUF_SETTINGS: SettingList[Config] = gguf_metadata.settings(
    Config,
    "smollm3",
    *llama_like_settings.gguf("smollm3", factors=False),
    Setting("luthier.nope_every", "nope_every", count(), default=NOPE_EVERY),
    gguf_metadata.LayerIndices("luthier.nope_layers", "nope_layers"),
    windows.LuthierWindows(),
    CustomSetting(read_biases),
)


def caveats(config: Config) -> list[str]:
    """Messages about what llama.cpp would compute differently from this model."""
    found = windows.caveats(config)
    if any(config.has_rope(layer) == ((layer + 1) % NOPE_EVERY == 0) for layer in range(config.n_layers)):
        found.append(f"llama.cpp leaves positions out of every {NOPE_EVERY}th layer, this model of others")
    if config.attention_bias or config.mlp_bias:
        found.append("llama.cpp cannot open it: it knows no biases of this architecture")
    return found


FAMILY = Family(
    "smollm3",
    Config,
    SIZES,
    build,
    initialize,
    {
        "hf": FormatSpec(
            hugging_face_tensors,
            HUGGING_FACE_SETTINGS,
            {"SmolLM3ForCausalLM": "smollm3", "SmolLM3Model": "smollm3"},
        ),
        "gguf": FormatSpec(gguf_tensors, GGUF_SETTINGS, caveats=caveats),
    },
)
