"""StableLM (3B, 2-1.6B and 2-12B; arXiv 2402.17834): LayerNorm, SwiGLU and rotary positions on a part of each head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from luthier.architectures import config_json, gguf_metadata, llama_like_names
from luthier.architectures.checked_values import LARGEST_CONTEXT, LARGEST_DEPTH
from luthier.architectures.family import Family, FormatSpec
from luthier.architectures.initialize import empty_embedding, initialize_normal
from luthier.architectures.llama_like_names import BLOCK, GGUF, HUGGING_FACE
from luthier.architectures.settings import (
    CustomSetting,
    Dropped,
    Fixed,
    Reading,
    Setting,
    SettingList,
    WriteOnlyField,
    count,
    flag,
    positive,
    probability,
)
from luthier.formats.weight_table import Join, Reshape, Rule, Table, each_layer
from luthier.model.attention import Attention
from luthier.model.blocks import ParallelBlock
from luthier.model.feed_forward import SwiGLU
from luthier.model.norm import HeadLayerNorm
from luthier.model.qk_norm import HeadNorm
from luthier.model.rope import partial_rope
from luthier.model.rope_scaling import RopeScaling
from luthier.model.transformer import Block, Transformer


@dataclass(frozen=True)
class Config:
    """Configuration of a StableLM model. The defaults are 3B-4E1T."""

    vocab_size: int = 50_304
    """Entries of the vocabulary."""
    context_length: int = 4096
    """Tokens."""
    dim: int = 2560
    """Width of the residual stream."""
    hidden_dim: int = 6912
    """Width of the feed-forward."""
    n_layers: int = 32
    """Blocks."""
    n_heads: int = 32
    """Query heads."""
    n_kv_heads: int = 32
    """Key and value heads, each shared by n_heads / n_kv_heads query heads."""
    rotary_dim: int | None = 20
    """Dimensions of a head that RoPE rotates, the first ones; all unless given."""
    qkv_bias: bool = False
    """Biases on queries, keys and values."""
    qk_norm: bool = False
    """Layer norm of queries and keys, with weights for each head."""
    parallel: bool = False
    """Attention and feed-forward read the same input, of one norm."""
    norm_eps: float = 1e-5
    """Added to the variance in layer norm."""
    rope_theta: float = 10_000.0
    """Base of the rotary wavelengths."""
    rope_scaling: RopeScaling | None = None
    """RoPE scaling for a context longer than the one trained on."""
    tie_embeddings: bool = False
    """Use the token embedding as the output matrix."""
    dropout: float = 0.0
    """Probability, in training only."""

    @property
    def head_dim(self) -> None:
        """Dim / n_heads, always."""
        return None


def small_config(vocab_size: int, context_length: int, dim: int, n_layers: int, n_heads: int) -> Config:
    """A StableLM small enough to train on a CPU."""
    return Config(
        vocab_size, context_length, dim, 8 * dim // 3 // 32 * 32, n_layers, n_heads, 2,
        rotary_dim=dim // n_heads // 4, tie_embeddings=True,
    )  # fmt: skip


SIZES = {
    "stablelm-3b": Config(),
    "stablelm2-1.6b": Config(100_352, dim=2048, hidden_dim=5632, n_layers=24, rotary_dim=16, qkv_bias=True),
    "stablelm2-12b": Config(
        100_352, dim=5120, hidden_dim=13_824, n_layers=40, n_kv_heads=8, rotary_dim=40, qk_norm=True, parallel=True
    ),
    # small enough to train on a CPU; vocab_size is replaced by the tokenizer's
    "stablelm-nano": small_config(512, context_length=128, dim=128, n_layers=4, n_heads=4),
    "stablelm-micro": small_config(2048, context_length=256, dim=192, n_layers=6, n_heads=6),
    "stablelm-mini": small_config(4096, context_length=256, dim=384, n_layers=8, n_heads=6),
}


def build(config: Config) -> Transformer:
    """The model, with uninitialized weights (see registry.build)."""
    return Transformer(
        empty_embedding(config.vocab_size, config.dim),
        [build_block(config) for _ in range(config.n_layers)],
        nn.LayerNorm(config.dim, eps=config.norm_eps),
        tie_embeddings=config.tie_embeddings,
        dropout=config.dropout,
    )


def build_block(config: Config) -> Block:
    """One of the n_layers identical blocks."""
    size, scaling = config.dim // config.n_heads, config.rope_scaling
    rotated = config.rotary_dim or size
    magnitude = scaling.magnitude if scaling and rotated == size else 1.0
    steps: tuple[nn.Module, ...] = (partial_rope(size, rotated, config.rope_theta, scaling),)
    if config.qk_norm:
        heads = config.n_heads, config.n_kv_heads
        steps = (HeadNorm(*(HeadLayerNorm(n, size, config.norm_eps) for n in heads)), *steps)
    attention = Attention(
        config.dim,
        config.n_heads,
        config.n_kv_heads,
        qk_steps=steps,
        scale=size**-0.5 * magnitude**2,
        bias=config.qkv_bias,
        dropout=config.dropout,
    )
    norm, feed_forward = nn.LayerNorm(config.dim, eps=config.norm_eps), SwiGLU(config.dim, config.hidden_dim)
    if config.parallel:
        return ParallelBlock(norm, attention, None, feed_forward, config.dropout)
    return Block(norm, attention, nn.LayerNorm(config.dim, eps=config.norm_eps), feed_forward, config.dropout)


def initialize(model: Transformer, config: Config, generator: torch.Generator) -> None:
    """N(0, 0.02), residual outputs divided by sqrt(2 n_layers)."""
    initialize_normal(model, generator, std=0.02, residual_scale=(2 * config.n_layers) ** -0.5)


def norm_rules(external: str, internal: str) -> list[Rule]:
    """A layer norm."""
    return [Rule(f"{external}.{kind}", f"{internal}.{kind}") for kind in ("weight", "bias")]


def linear_rules(config: Config, names: dict[str, str], out: str) -> list[Rule]:
    """Attention. names: external, of queries, keys and values by internal; out: of the output."""
    kinds = llama_like_names.parameters_of_linear(config.qkv_bias)
    return [
        *(Rule(f"{a}.{kind}", f"{BLOCK}attention.{b}.{kind}") for b, a in names.items() for kind in kinds),
        Rule(f"{out}.weight", BLOCK + "attention.output.weight"),
    ]


def hugging_face_tensors(config: Config) -> Table:
    """Weight table of transformers' StableLmForCausalLM, which has a norm of its own for each head."""
    attention = HUGGING_FACE + "self_attn."
    names = {"query": attention + "q_proj", "key": attention + "k_proj", "value": attention + "v_proj"}
    block = [
        *norm_rules(HUGGING_FACE + "input_layernorm", BLOCK + "attention_norm"),
        *linear_rules(config, names, attention + "o_proj"),
        *llama_like_names.hugging_face_feed_forward("mlp"),
    ]
    if not config.parallel:
        block += norm_rules(HUGGING_FACE + "post_attention_layernorm", BLOCK + "feed_forward_norm")
    if config.qk_norm:
        size = config.dim // config.n_heads
        for part, name, heads in (("q", "query", config.n_heads), ("k", "key", config.n_kv_heads)):
            external = tuple(f"{attention}{part}_layernorm.norms.{head}.weight" for head in range(heads))
            block.append(Rule(external, f"{BLOCK}attention.qk_steps.0.{name}.weight", Join((size,) * heads)))
    layers = each_layer(range(config.n_layers), block)
    table = llama_like_names.hugging_face_table(layers, config.tie_embeddings)
    return Table([*table.rules, Rule("model.norm.bias", "norm.bias")], table.prefixes, table.ignored, table.duplicates)


HUGGING_FACE_SETTINGS: SettingList[Config] = config_json.settings(  # defaults: those of transformers' StableLmConfig
    Config,
    "StableLmForCausalLM",
    "stablelm",
    Setting("vocab_size", "vocab_size", count(), default=50_304),
    Setting("hidden_size", "dim", count(), default=2560),
    Setting("intermediate_size", "hidden_dim", count(), default=6912),
    Setting("num_hidden_layers", "n_layers", count(LARGEST_DEPTH), default=32),
    Setting("num_attention_heads", "n_heads", count(), default=32),
    Setting("num_key_value_heads", "n_kv_heads", count(), default=32),
    Fixed("hidden_act", "silu", also=("swish",)),
    Setting("use_qkv_bias", "qkv_bias", flag, default=False),
    Setting("qk_layernorm", "qk_norm", flag, default=False),
    Setting("use_parallel_residual", "parallel", flag, default=False),
    Setting("layer_norm_eps", "norm_eps", positive, default=1e-5),
    config_json.PartialRopeSettings(10_000.0, 4096, 0.25),
    WriteOnlyField("attention_dropout", "dropout"),
    Setting("hidden_dropout", "dropout", probability, default=0.0),
    Setting("tie_word_embeddings", "tie_embeddings", flag, default=False),
)


def gguf_tensors(config: Config) -> Table:
    """Weight table of llama.cpp's architecture "stablelm". Its rotary pairs are halves, as in Luthier."""
    names = {"query": GGUF + "attn_q", "key": GGUF + "attn_k", "value": GGUF + "attn_v"}
    block = [
        *norm_rules(GGUF + "attn_norm", BLOCK + "attention_norm"),
        *linear_rules(config, names, GGUF + "attn_output"),
        *llama_like_names.gguf_feed_forward(),
    ]
    if not config.parallel:
        block += norm_rules(GGUF + "ffn_norm", BLOCK + "feed_forward_norm")
    if config.qk_norm:
        size = config.dim // config.n_heads
        for part, name, heads in (("q", "query", config.n_heads), ("k", "key", config.n_kv_heads)):
            internal = f"{BLOCK}attention.qk_steps.0.{name}.weight"
            block.append(Rule(f"{GGUF}attn_{part}_norm.weight", internal, Reshape((heads, size), (heads * size,))))
    rotated = config.rotary_dim or config.dim // config.n_heads
    rope = gguf_metadata.rope_rules(rotated, config.rope_theta, config.rope_scaling)
    return Table(
        [
            *gguf_metadata.embedding_rules(config.tie_embeddings),
            *rope,
            *each_layer(range(config.n_layers), block),
            *norm_rules("output_norm", "norm"),
        ]
    )


def read_tensors(reading: Reading) -> dict[str, Any]:
    """What a GGUF file's tensors alone show."""
    checkpoint = reading.weights.checkpoint
    reading.values.ignore("stablelm.use_parallel_residual")  # llama.cpp goes by the tensors as well
    return {
        "qkv_bias": gguf_metadata.has_bias(checkpoint, "attn_q"),
        "qk_norm": "blk.0.attn_q_norm.weight" in checkpoint.shapes(),
        "parallel": "blk.0.ffn_norm.weight" not in checkpoint.shapes(),
    }


GGUF_SETTINGS: SettingList[Config] = gguf_metadata.settings(
    Config,
    "stablelm",
    gguf_metadata.VocabSize("stablelm"),
    Setting("stablelm.context_length", "context_length", count(LARGEST_CONTEXT)),
    Setting("stablelm.embedding_length", "dim", count()),
    Setting("stablelm.feed_forward_length", "hidden_dim", count()),
    gguf_metadata.LayerCount("stablelm"),
    gguf_metadata.Heads("stablelm", partial=True),
    Setting("stablelm.attention.layer_norm_epsilon", "norm_eps", positive),
    gguf_metadata.RopeSettings("stablelm"),
    Dropped("head_dim"),
    CustomSetting(read_tensors, lambda config: {"stablelm.use_parallel_residual": config.parallel}),
    Setting("luthier.dropout", "dropout", probability, default=0.0),
    gguf_metadata.TIED_OR_EQUAL,
)


FAMILY = Family(
    "stablelm",
    Config,
    SIZES,
    build,
    initialize,
    {
        "hf": FormatSpec(hugging_face_tensors, HUGGING_FACE_SETTINGS, {"StableLmForCausalLM": "stablelm"}),
        "gguf": FormatSpec(gguf_tensors, GGUF_SETTINGS),
    },
)
