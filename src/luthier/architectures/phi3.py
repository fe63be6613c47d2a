"""Phi-3 (arXiv 2404.14219), Phi-4, Phi-4-mini (arXiv 2503.01743): Llama with fused matrices, and longrope."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from luthier.architectures import config_json, gguf_metadata, llama_like_names
from luthier.architectures.checked_values import LARGEST_CONTEXT, LARGEST_DEPTH, CheckedValues
from luthier.architectures.family import Family, FormatSpec
from luthier.architectures.initialize import empty_embedding, initialize_normal
from luthier.architectures.llama_like_names import BLOCK, GGUF, HUGGING_FACE
from luthier.architectures.settings import (
    CustomSetting,
    Fixed,
    HeadDimSetting,
    Ignored,
    OptionalSetting,
    Setting,
    SettingList,
    WriteOnlyField,
    count,
    flag,
    head_dim,
    positive,
    probability,
    same_as,
)
from luthier.formats.weight_table import Rule, Split, Table, each_layer
from luthier.model.attention import Attention
from luthier.model.feed_forward import SwiGLU
from luthier.model.mask import SlidingWindow, causal
from luthier.model.norm import RMSNorm
from luthier.model.rope import partial_rope
from luthier.model.rope_scaling import RopeScaling
from luthier.model.transformer import Block, Transformer

ORIGINAL = 4096  # tokens of the context trained on, in transformers' Phi3Config


@dataclass(frozen=True)
class Config:
    """Configuration of a Phi-3 model. The defaults are Phi-3 mini, 4k."""

    vocab_size: int = 32_064
    """Entries of the vocabulary."""
    context_length: int = 4096
    """Tokens."""
    dim: int = 3072
    """Width of the residual stream."""
    hidden_dim: int = 8192
    """Width of the feed-forward."""
    n_layers: int = 32
    """Blocks."""
    n_heads: int = 32
    """Query heads."""
    n_kv_heads: int = 32
    """Key and value heads, each shared by n_heads / n_kv_heads query heads."""
    head_dim: int | None = None
    """Width of a head; dim / n_heads unless given."""
    rotary_dim: int | None = None
    """Dimensions of a head that RoPE rotates, the first ones; all unless given."""
    window: int | None = None
    """Sliding window in tokens, the query's own included; none unless given."""
    norm_eps: float = 1e-5
    """Added to the mean square in RMS norm."""
    rope_theta: float = 10_000.0
    """Base of the rotary wavelengths."""
    rope_scaling: RopeScaling | None = None
    """RoPE scaling for a context longer than the one trained on."""
    tie_embeddings: bool = False
    """Use the token embedding as the output matrix."""
    dropout: float = 0.0
    """Probability, in training only. Phi itself uses none."""


# of Phi-4-mini, for texts over 4096 tokens
LONG = (
    1.0, 1.118320672, 1.250641126, 1.398617824, 1.564103225, 1.74916897, 1.956131817, 2.187582649, 2.446418898,
    2.735880826, 3.059592084, 3.421605075, 3.826451687, 4.279200023, 4.785517845, 5.351743533, 5.984965424, 6.693110555,
    7.485043894, 8.370679318, 9.36110372, 10.4687158, 11.70738129, 13.09260651, 14.64173252, 16.37415215, 18.31155283,
    20.47818807, 22.90118105, 25.61086418, 28.64115884, 32.03, 32.1, 32.13, 32.23, 32.6, 32.61, 32.64, 32.66, 32.7,
    32.71, 32.93, 32.97, 33.28, 33.49, 33.5, 44.16, 47.77,
)  # fmt: skip
LONGROPE = RopeScaling(
    32.0, original_context_length=4096, kind="longrope", short_factors=(1.0,) * 48, long_factors=LONG
)

SIZES = {
    "phi3-3.8b": Config(window=2047),
    "phi3-14b": Config(
        dim=5120, hidden_dim=17_920, n_layers=40, n_heads=40, n_kv_heads=10, window=2047
    ),
    "phi4-mini-3.8b": Config(
        200_064, 131_072, n_heads=24, n_kv_heads=8, rotary_dim=96, window=262_144, rope_scaling=LONGROPE,
        tie_embeddings=True,
    ),
    "phi4-14b": Config(
        100_352, 16_384, 5120, 17_920, n_layers=40, n_heads=40, n_kv_heads=10, rope_theta=250_000.0
    ),
    # small enough to train on a CPU; vocab_size is replaced by the tokenizer's
    "phi3-nano": Config(512, 128, 128, 352, 4, 4, 2, rotary_dim=24, tie_embeddings=True),
    "phi3-micro": Config(2048, 256, 192, 512, 6, 6, 2, rotary_dim=24, tie_embeddings=True),
    "phi3-mini": Config(4096, 256, 384, 1024, 8, 6, 2, rotary_dim=48, tie_embeddings=True),
}  # fmt: skip


def build(config: Config) -> Transformer:
    """The model, with uninitialized weights (see registry.build)."""
    return Transformer(
        empty_embedding(config.vocab_size, config.dim),
        [build_block(config) for _ in range(config.n_layers)],
        RMSNorm(config.dim, config.norm_eps),
        tie_embeddings=config.tie_embeddings,
        dropout=config.dropout,
    )


def build_block(config: Config) -> Block:
    """One of the n_layers identical blocks."""
    size, scaling = head_dim(config), config.rope_scaling
    whole = config.rotary_dim in (None, size)
    magnitude = scaling.magnitude if scaling and whole else 1.0  # PartialRope applies it itself
    return Block(
        RMSNorm(config.dim, config.norm_eps),
        Attention(
            config.dim,
            config.n_heads,
            config.n_kv_heads,
            config.head_dim,
            qk_steps=(partial_rope(size, config.rotary_dim or size, config.rope_theta, scaling),),
            mask=causal if config.window is None else SlidingWindow(config.window),
            scale=size**-0.5 * magnitude**2,
            dropout=config.dropout,
        ),
        RMSNorm(config.dim, config.norm_eps),
        SwiGLU(config.dim, config.hidden_dim),
        dropout=config.dropout,
    )


def initialize(model: Transformer, config: Config, generator: torch.Generator) -> None:
    """N(0, 0.02), residual outputs divided by sqrt(2 n_layers), as in GPT-2."""
    initialize_normal(model, generator, std=0.02, residual_scale=(2 * config.n_layers) ** -0.5)


def block_rules(config: Config, qkv: str, out: str, gate_up: str, down: str) -> list[Rule]:
    """Rules of a block without norms: q, k and v fused, gate and up fused. Arguments: external names."""
    queries, keys = config.n_heads * head_dim(config), config.n_kv_heads * head_dim(config)
    internal = tuple(f"{BLOCK}attention.{part}.weight" for part in ("query", "key", "value"))
    halves = (BLOCK + "feed_forward.gate.weight", BLOCK + "feed_forward.up.weight")
    return [
        Rule(f"{qkv}.weight", internal, Split((queries, keys, keys))),
        Rule(f"{out}.weight", BLOCK + "attention.output.weight"),
        Rule(f"{gate_up}.weight", halves, Split((config.hidden_dim,) * 2)),
        Rule(f"{down}.weight", BLOCK + "feed_forward.down.weight"),
    ]


def hugging_face_tensors(config: Config) -> Table:
    """Weight table of transformers' Phi3ForCausalLM."""
    names = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
    block = block_rules(config, *(HUGGING_FACE + name for name in names))
    layers = each_layer(range(config.n_layers), llama_like_names.hugging_face_block(block, []))
    return llama_like_names.hugging_face_table(layers, config.tie_embeddings)


def write_original(config: Config) -> dict[str, int]:
    """The context length of training, outside the RoPE settings, where it has precedence."""
    scaling = config.rope_scaling
    return {"original_max_position_embeddings": scaling.original_context_length if scaling else ORIGINAL}


def with_longrope(values: Mapping[str, Any]) -> CheckedValues:
    """The settings, with "su" and "yarn" in older files replaced by "longrope".

    `original_max_position_embeddings` outside the RoPE settings has precedence; transformers has a default for it.
    """
    changed = {"original_max_position_embeddings": ORIGINAL, **values}
    for section in ("rope_scaling", "rope_parameters"):
        rope = values.get(section)
        if isinstance(rope, dict):
            changed[section] = {
                name: "longrope" if name in ("type", "rope_type") and kind in ("su", "yarn") else kind
                for name, kind in rope.items()
            }
    return CheckedValues(changed)


HUGGING_FACE_SETTINGS: SettingList[Config] = config_json.settings(  # defaults: those of transformers' Phi3Config
    Config,
    "Phi3ForCausalLM",
    "phi3",
    Setting("vocab_size", "vocab_size", count(), default=32_064),
    Setting("hidden_size", "dim", count(), default=3072),
    Setting("intermediate_size", "hidden_dim", count(), default=8192),
    Setting("num_hidden_layers", "n_layers", count(LARGEST_DEPTH), default=32),
    Setting("num_attention_heads", "n_heads", count(), default=32),
    Setting("num_key_value_heads", "n_kv_heads", count(), default=same_as("n_heads")),
    HeadDimSetting(),
    OptionalSetting("sliding_window", "window", count(LARGEST_CONTEXT)),
    Fixed("hidden_act", "silu", also=("swish",)),
    Setting("rms_norm_eps", "norm_eps", positive, default=1e-5),
    config_json.PartialRopeSettings(theta=10_000.0, context=4096, fraction=1.0),
    CustomSetting(lambda reading: {}, write_original),
    *(Fixed(name, False, written=False) for name in ("attention_bias", "mlp_bias", "lm_head_bias")),
    WriteOnlyField("embd_pdrop", "dropout"),
    WriteOnlyField("attention_dropout", "dropout"),
    Setting("resid_pdrop", "dropout", probability, default=0.0),
    Setting("tie_word_embeddings", "tie_embeddings", flag, default=False),
    Ignored("interpolate_factor", "full_attn_mod", "embd_layer"),  # not read by transformers
    find_settings=with_longrope,
)


def gguf_tensors(config: Config) -> Table:
    """Weight table of llama.cpp's architecture "phi3". Its rotary pairs are halves, as in Luthier."""
    block = [
        Rule(GGUF + "attn_norm.weight", BLOCK + "attention_norm.weight"),
        Rule(GGUF + "ffn_norm.weight", BLOCK + "feed_forward_norm.weight"),
        *block_rules(config, *(GGUF + name for name in ("attn_qkv", "attn_output", "ffn_up", "ffn_down"))),
    ]
    rotated = config.rotary_dim or head_dim(config)
    rope = gguf_metadata.rope_rules(rotated, config.rope_theta, config.rope_scaling)
    return llama_like_names.gguf_table(rope, each_layer(range(config.n_layers), block), config.tie_embeddings)


GGUF_SETTINGS: SettingList[Config] = gguf_metadata.settings(
    Config,
    "phi3",
    gguf_metadata.VocabSize("phi3"),
    Setting("phi3.context_length", "context_length", count(LARGEST_CONTEXT)),
    Setting("phi3.embedding_length", "dim", count()),
    Setting("phi3.feed_forward_length", "hidden_dim", count()),
    gguf_metadata.LayerCount("phi3"),
    gguf_metadata.Heads("phi3", partial=True),
    gguf_metadata.Window("phi3"),
    Setting("phi3.attention.layer_norm_rms_epsilon", "norm_eps", positive),
    gguf_metadata.RopeSettings("phi3"),
    Setting("luthier.dropout", "dropout", probability, default=0.0),
    gguf_metadata.TIED_EMBEDDINGS,
)


def caveats(config: Config) -> list[str]:
    """Messages about what llama.cpp would compute differently from this model."""
    found = []
    if config.window is not None and config.window < config.context_length:
        found.append(f"llama.cpp attends without phi3's window: it differs after {config.window} tokens")
    scaling = config.rope_scaling
    if scaling and scaling.kind == "longrope" and config.context_length > scaling.original_context_length:
        found.append("llama.cpp chooses longrope's factors by the context that it is given, not by the text's length")
    return found


FAMILY = Family(
    "phi3",
    Config,
    SIZES,
    build,
    initialize,
    {
        "hf": FormatSpec(hugging_face_tensors, HUGGING_FACE_SETTINGS, {"Phi3ForCausalLM": "phi3"}),
        "gguf": FormatSpec(gguf_tensors, GGUF_SETTINGS, caveats=caveats),
    },
)
