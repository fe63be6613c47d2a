"""Arcee (AFM, June 2025): Llama's blocks with squared ReLU in place of SwiGLU."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from luthier.architectures import config_json, gguf_metadata, llama_like_names, llama_like_settings
from luthier.architectures.family import Family, FormatSpec
from luthier.architectures.initialize import empty_embedding, initialize_normal
from luthier.architectures.llama_like_names import BLOCK, GGUF, HUGGING_FACE
from luthier.architectures.settings import CustomSetting, Fixed, Reading, Setting, SettingList, flag, head_dim
from luthier.formats.weight_table import Rule, Table, each_layer
from luthier.model.attention import Attention
from luthier.model.feed_forward import SquaredReLUFeedForward
from luthier.model.norm import RMSNorm
from luthier.model.rope import rope
from luthier.model.rope_scaling import RopeScaling
from luthier.model.transformer import Block, Transformer


@dataclass(frozen=True)
class Config:
    """Arcee's shape. The defaults are AFM 4.5B, but for its scaling of rotary positions."""

    vocab_size: int = 128_005
    """Entries of the vocabulary."""
    context_length: int = 65_536
    """Tokens."""
    dim: int = 2560
    """Width of the residual stream."""
    hidden_dim: int = 18_432
    """Width of the feed-forward."""
    n_layers: int = 36
    """Blocks."""
    n_heads: int = 20
    """Query heads."""
    n_kv_heads: int = 4
    """Heads of keys and values, each shared by n_heads / n_kv_heads query heads."""
    head_dim: int | None = None
    """Width of a head; dim / n_heads unless given."""
    norm_eps: float = 1e-5
    """Added to the mean square in RMS norm."""
    rope_theta: float = 10_000.0
    """Base of the rotary wavelengths."""
    rope_scaling: RopeScaling | None = None
    """How rotary positions are scaled for a context longer than the one trained on."""
    tie_embeddings: bool = False
    """Use the token embedding as the output matrix."""
    dropout: float = 0.0
    """Probability, in training only. Arcee itself uses none."""
    attention_bias: bool = False
    """Biases on queries, keys, values and the output of attention."""
    mlp_bias: bool = False
    """Biases on the two matrices of the feed-forward."""


SIZES = {
    "arcee-afm-4.5b": Config(rope_scaling=RopeScaling(20.0, original_context_length=4096, kind="yarn")),
    # for a CPU: the vocabulary is that of the tokenizer
    "arcee-nano": Config(512, 128, 128, 528, 4, 4, 2, tie_embeddings=True),
    "arcee-micro": Config(2048, 256, 192, 768, 6, 6, 2, tie_embeddings=True),
    "arcee-mini": Config(4096, 256, 384, 1536, 8, 6, 2, tie_embeddings=True),
}


def build(config: Config) -> Transformer:
    """Parts joined as Arcee joins them, with weights that are not yet set (see registry.build)."""
    return Transformer(
        empty_embedding(config.vocab_size, config.dim),
        [build_block(config) for _ in range(config.n_layers)],
        RMSNorm(config.dim, config.norm_eps),
        tie_embeddings=config.tie_embeddings,
        dropout=config.dropout,
    )


def build_block(config: Config) -> Block:
    """One of the n_layers identical blocks."""
    magnitude = config.rope_scaling.magnitude if config.rope_scaling else 1.0  # of queries and of keys
    return Block(
        RMSNorm(config.dim, config.norm_eps),
        Attention(
            config.dim,
            config.n_heads,
            config.n_kv_heads,
            config.head_dim,
            qk_steps=(rope(head_dim(config), config.rope_theta, config.rope_scaling),),
            scale=head_dim(config) ** -0.5 * magnitude**2,
            bias=config.attention_bias,
            out_bias=config.attention_bias,
            dropout=config.dropout,
        ),
        RMSNorm(config.dim, config.norm_eps),
        SquaredReLUFeedForward(config.dim, config.hidden_dim, bias=config.mlp_bias),
        dropout=config.dropout,
    )


def initialize(model: Transformer, config: Config, generator: torch.Generator) -> None:
    """N(0, 0.02), residual outputs / sqrt(2 n_layers), as in GPT-2: none is published for it."""
    initialize_normal(model, generator, std=0.02, residual_scale=(2 * config.n_layers) ** -0.5)


def hugging_face_tensors(config: Config) -> Table:
    """Weight table of transformers' ArceeForCausalLM."""
    attention = llama_like_names.hugging_face_attention(config.n_heads, config.n_kv_heads, bias=config.attention_bias)
    feed_forward = [
        Rule(f"{HUGGING_FACE}mlp.{part}_proj.{kind}", f"{BLOCK}feed_forward.{part}.{kind}")
        for part in ("up", "down")
        for kind in llama_like_names.parameters_of_linear(config.mlp_bias)
    ]
    layers = each_layer(range(config.n_layers), llama_like_names.hugging_face_block(attention, feed_forward))
    return llama_like_names.hugging_face_table(layers, config.tie_embeddings)


# defaults: those of transformers' ArceeConfig
HUGGING_FACE_SETTINGS: SettingList[Config] = config_json.settings(
    Config,
    "ArceeForCausalLM",
    "arcee",
    *llama_like_settings.hugging_face(eps=1e-5, context=4096, activation=Fixed("hidden_act", "relu2")),
    Setting("attention_bias", "attention_bias", flag, default=False),
    Setting("mlp_bias", "mlp_bias", flag, default=False),
)


def gguf_tensors(config: Config) -> Table:
    """Weight table of llama.cpp's architecture "arcee"."""
    block = [
        Rule(GGUF + "attn_norm.weight", BLOCK + "attention_norm.weight"),
        Rule(GGUF + "ffn_norm.weight", BLOCK + "feed_forward_norm.weight"),
        *llama_like_names.gguf_attention(config.n_heads, config.n_kv_heads, bias=config.attention_bias),
        *(
            Rule(f"{GGUF}ffn_{part}.{kind}", f"{BLOCK}feed_forward.{part}.{kind}")
            for part in ("up", "down")
            for kind in llama_like_names.parameters_of_linear(config.mlp_bias)
        ),
    ]
    factors = gguf_metadata.rope_rules(head_dim(config), config.rope_theta, config.rope_scaling)
    return llama_like_names.gguf_table(factors, each_layer(range(config.n_layers), block), config.tie_embeddings)


def read_biases(reading: Reading) -> dict[str, bool]:
    """Which biases a GGUF file has, from the names of its tensors."""
    checkpoint = reading.weights.checkpoint
    return {
        "attention_bias": gguf_metadata.has_bias(checkpoint, "attn_"),
        "mlp_bias": gguf_metadata.has_bias(checkpoint, "ffn_"),
    }


GGUF_SETTINGS: SettingList[Config] = gguf_metadata.settings(
    Config,
    "arcee",
    *llama_like_settings.gguf("arcee"),
    CustomSetting(read_biases),
)


def caveats(config: Config) -> list[str]:
    """What llama.cpp would compute in another way than the model does, in words for people."""
    biases = config.attention_bias or config.mlp_bias
    return ["llama.cpp cannot open it: it knows no biases of this architecture"] if biases else []


FAMILY = Family(
    "arcee",
    Config,
    SIZES,
    build,
    initialize,
    {
        "hf": FormatSpec(
            hugging_face_tensors, HUGGING_FACE_SETTINGS, {"ArceeForCausalLM": "arcee", "ArceeModel": "arcee"}
        ),
        "gguf": FormatSpec(gguf_tensors, GGUF_SETTINGS, caveats=caveats),
    },
)
