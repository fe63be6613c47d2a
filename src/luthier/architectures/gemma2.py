"""Gemma 2 (arXiv 2408.00118): norms of 1 + w before and after each sublayer, capped scores and logits, local layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from luthier.architectures import config_json, gguf_metadata, llama_like_names
from luthier.architectures.checked_values import LARGEST_CONTEXT, LARGEST_DEPTH
from luthier.architectures.family import Family, FormatSpec
from luthier.architectures.initialize import initialize_normal
from luthier.architectures.layer_types import GGUFLayerTypes, LayerTypes, is_global
from luthier.architectures.llama_like_names import BLOCK, GGUF, HUGGING_FACE
from luthier.architectures.settings import (
    CustomSetting,
    Fixed,
    HeadDimSetting,
    Ignored,
    OptionalSetting,
    Setting,
    SettingList,
    count,
    flag,
    head_dim,
    positive,
    probability,
)
from luthier.errors import LuthierError
from luthier.formats.weight_table import AddOne, Rule, Table, each_layer
from luthier.model.attention import Attention
from luthier.model.feed_forward import GeGLU
from luthier.model.mask import SlidingWindow, causal
from luthier.model.norm import OffsetRMSNorm
from luthier.model.output import CappedLinear
from luthier.model.rope import rope
from luthier.model.rope_scaling import RopeScaling
from luthier.model.scale import RoundedScaleEmbedding
from luthier.model.transformer import Block, Transformer


@dataclass(frozen=True)
class Config:
    """Configuration of a Gemma 2 model. The defaults are those of 2B."""

    vocab_size: int = 256_000
    """Entries of the vocabulary."""
    context_length: int = 8192
    """Tokens."""
    dim: int = 2304
    """Width of the residual stream."""
    hidden_dim: int = 9216
    """Width of the feed-forward."""
    n_layers: int = 26
    """Blocks."""
    n_heads: int = 8
    """Query heads."""
    n_kv_heads: int = 4
    """Key and value heads, each shared by n_heads / n_kv_heads query heads."""
    head_dim: int | None = 256
    """Width of a head; dim / n_heads unless given."""
    window: int = 4096
    """Sliding window of local layers in tokens, the query's own included."""
    global_every: int = 2
    """Every n-th layer has global attention (2: layers 1, 3, 5, ... counted from 0)."""
    global_layers: tuple[int, ...] | None = None
    """The layers with global attention, counted from 0; overrides global_every."""
    query_scale: int = 256
    """Attention scores are divided by its square root."""
    attention_softcap: float | None = 50.0
    """Attention scores become softcap * tanh(score / softcap); None: not capped."""
    logit_softcap: float | None = 30.0
    """The same for logits."""
    norm_eps: float = 1e-6
    """Added to the mean square in RMS norm."""
    rope_theta: float = 10_000.0
    """Base of the rotary wavelengths."""
    rope_scaling: RopeScaling | None = None
    """RoPE scaling for a context longer than the one trained on."""
    tie_embeddings: bool = True
    """Use the token embedding as the output matrix."""
    dropout: float = 0.0
    """Probability, in training only. Gemma itself uses none."""


def small_config(vocab_size: int, context_length: int, dim: int, n_layers: int, n_heads: int) -> Config:
    """A Gemma 2 small enough to train on a CPU: windows of half the context."""
    heads = {"n_heads": n_heads, "n_kv_heads": 2, "head_dim": None, "query_scale": dim // n_heads}
    shape = {"hidden_dim": 8 * dim // 3 // 32 * 32, "n_layers": n_layers, "window": context_length // 2}
    return Config(vocab_size, context_length, dim, **heads, **shape)  # type: ignore[arg-type]


SIZES = {
    "gemma2-2b": Config(),
    "gemma2-9b": Config(dim=3584, hidden_dim=14_336, n_layers=42, n_heads=16, n_kv_heads=8),
    "gemma2-27b": Config(
        dim=4608, hidden_dim=36_864, n_layers=46, n_heads=32, n_kv_heads=16, head_dim=128, query_scale=144
    ),
    # small enough to train on a CPU; vocab_size is replaced by the tokenizer's
    "gemma2-nano": small_config(512, context_length=128, dim=128, n_layers=4, n_heads=4),
    "gemma2-micro": small_config(2048, context_length=256, dim=192, n_layers=6, n_heads=6),
    "gemma2-mini": small_config(4096, context_length=256, dim=384, n_layers=8, n_heads=6),
}


def build(config: Config) -> Transformer:
    """The model, with uninitialized weights (see registry.build)."""
    cap = config.logit_softcap
    return Transformer(
        RoundedScaleEmbedding(torch.empty(config.vocab_size, config.dim), config.dim**0.5),
        [build_block(config, layer) for layer in range(config.n_layers)],
        OffsetRMSNorm(config.dim, config.norm_eps),
        output=None if cap is None else CappedLinear(config.dim, config.vocab_size, cap),
        tie_embeddings=config.tie_embeddings,
        dropout=config.dropout,
    )


def build_block(config: Config, layer: int) -> Block:
    """The block of a layer, counted from 0: local or global attention."""
    magnitude = config.rope_scaling.magnitude if config.rope_scaling else 1.0  # multiplies queries and keys
    attention = Attention(
        config.dim,
        config.n_heads,
        config.n_kv_heads,
        config.head_dim,
        qk_steps=(rope(head_dim(config), config.rope_theta, config.rope_scaling),),
        mask=causal if is_global(config, layer) else SlidingWindow(config.window),
        scale=config.query_scale**-0.5 * magnitude**2,
        softcap=config.attention_softcap,
        dropout=config.dropout,
    )
    return Block(
        OffsetRMSNorm(config.dim, config.norm_eps),
        attention,
        OffsetRMSNorm(config.dim, config.norm_eps),
        GeGLU(config.dim, config.hidden_dim),
        attention_post=OffsetRMSNorm(config.dim, config.norm_eps),
        feed_forward_post=OffsetRMSNorm(config.dim, config.norm_eps),
        dropout=config.dropout,
    )


def initialize(model: Transformer, config: Config, generator: torch.Generator) -> None:
    """N(0, 0.02). (Google has published no other. Norms after each sublayer take the place of smaller outputs.)"""
    initialize_normal(model, generator, std=0.02, residual_scale=(2 * config.n_layers) ** -0.5)


NORMS = {"input": "attention_norm", "post_attention": "attention_post", "pre_feedforward": "feed_forward_norm"}
NORMS["post_feedforward"] = "feed_forward_post"
GGUF_NORMS = {"attn_norm": "attention_norm", "post_attention_norm": "attention_post", "ffn_norm": "feed_forward_norm"}
GGUF_NORMS["post_ffw_norm"] = "feed_forward_post"


def hugging_face_rules(n_heads: int, n_kv_heads: int) -> list[Rule]:
    """A block of Gemma 2 or 3, in transformers."""
    return [
        *(Rule(f"{HUGGING_FACE}{a}_layernorm.weight", f"{BLOCK}{b}.weight") for a, b in NORMS.items()),
        *llama_like_names.hugging_face_attention(n_heads, n_kv_heads),
        *llama_like_names.hugging_face_feed_forward("mlp"),
    ]


def hugging_face_tensors(config: Config) -> Table:
    """Weight table of transformers' Gemma2ForCausalLM."""
    block = hugging_face_rules(config.n_heads, config.n_kv_heads)
    return llama_like_names.hugging_face_table(each_layer(range(config.n_layers), block), config.tie_embeddings)


HUGGING_FACE_SETTINGS: SettingList[Config] = config_json.settings(  # defaults: those of transformers' Gemma2Config
    Config,
    "Gemma2ForCausalLM",
    "gemma2",
    Setting("vocab_size", "vocab_size", count(), default=256_000),
    Setting("hidden_size", "dim", count(), default=2304),
    Setting("intermediate_size", "hidden_dim", count(), default=9216),
    Setting("num_hidden_layers", "n_layers", count(LARGEST_DEPTH), default=26),
    Setting("num_attention_heads", "n_heads", count(), default=8),
    Setting("num_key_value_heads", "n_kv_heads", count(), default=4),
    HeadDimSetting(default=256),
    Setting("sliding_window", "window", count(LARGEST_CONTEXT), default=4096),
    LayerTypes(step=2),
    Setting("query_pre_attn_scalar", "query_scale", count(), default=256),
    OptionalSetting("attn_logit_softcapping", "attention_softcap", positive, default=50.0),
    OptionalSetting("final_logit_softcapping", "logit_softcap", positive, default=30.0),
    Fixed("hidden_activation", "gelu_pytorch_tanh"),
    Ignored("hidden_act", "cache_implementation"),  # transformers reads hidden_activation alone
    Setting("rms_norm_eps", "norm_eps", positive, default=1e-6),
    config_json.RopeSettings(theta=10_000.0, context=8192),
    Fixed("attention_bias", False),
    Fixed("use_bidirectional_attention", None, also=(False,), written=False),
    Setting("attention_dropout", "dropout", probability, default=0.0),
    Setting("tie_word_embeddings", "tie_embeddings", flag, default=True),
)


def gguf_rules() -> list[Rule]:
    """A block of Gemma 2 or 3, in llama.cpp. 1 is added to the weights of norms; rotary pairs are halves."""
    linears = {"attn_q": "attention.query", "attn_k": "attention.key", "attn_v": "attention.value"}
    linears["attn_output"] = "attention.output"
    return [
        *(Rule(f"{GGUF}{a}.weight", f"{BLOCK}{b}.weight", AddOne()) for a, b in GGUF_NORMS.items()),
        *(Rule(f"{GGUF}{a}.weight", f"{BLOCK}{b}.weight") for a, b in linears.items()),
        *llama_like_names.gguf_feed_forward(),
    ]


def gguf_table(rope_rules: list[Rule], layers: list[Rule], tied: bool) -> Table:
    """A whole Gemma, in llama.cpp."""
    rules = [
        Rule(gguf_metadata.EMBEDDING, "embedding.weight"),
        *rope_rules,
        *layers,
        Rule("output_norm.weight", "norm.weight", AddOne()),
    ]
    return Table(rules if tied else [*rules, Rule(gguf_metadata.OUTPUT, "output.weight")])


def gguf_tensors(config: Config) -> Table:
    """Weight table of llama.cpp's architecture "gemma2"."""
    scaling = gguf_metadata.rope_rules(head_dim(config), config.rope_theta, config.rope_scaling)
    return gguf_table(scaling, each_layer(range(config.n_layers), gguf_rules()), config.tie_embeddings)


def check_caps(config: Config) -> dict[str, Any]:
    """Raise a LuthierError for a model without caps: llama.cpp caps scores and logits of every gemma2."""
    for name in ("attention_softcap", "logit_softcap"):
        if getattr(config, name) is None:
            raise LuthierError(f"a GGUF file of gemma2 always has a {name}, this model has none: write it as hf")
    return {}


GGUF_SETTINGS: SettingList[Config] = gguf_metadata.settings(
    Config,
    "gemma2",
    gguf_metadata.VocabSize("gemma2"),
    Setting("gemma2.context_length", "context_length", count(LARGEST_CONTEXT)),
    Setting("gemma2.embedding_length", "dim", count()),
    Setting("gemma2.feed_forward_length", "hidden_dim", count()),
    gguf_metadata.LayerCount("gemma2"),
    gguf_metadata.Heads("gemma2"),
    Setting("gemma2.attention.sliding_window", "window", count(LARGEST_CONTEXT), default=4096),
    GGUFLayerTypes("gemma2", step=2),
    Setting("luthier.query_scale", "query_scale", count(), default=lambda r: llama_cpp_query_scale(r.fields)),
    CustomSetting(lambda reading: {}, check_caps),
    Setting("gemma2.attn_logit_softcapping", "attention_softcap", positive, default=50.0),
    Setting("gemma2.final_logit_softcapping", "logit_softcap", positive, default=30.0),
    Setting("gemma2.attention.layer_norm_rms_epsilon", "norm_eps", positive),
    gguf_metadata.RopeSettings("gemma2"),
    Setting("luthier.dropout", "dropout", probability, default=0.0),
    gguf_metadata.TIED_EMBEDDINGS,
)

LARGE = (46, 62)  # layers of Gemma 2 27B and Gemma 3 27B, by which llama.cpp knows them


def llama_cpp_query_scale(fields: dict[str, int]) -> int:
    """The `query_scale` that llama.cpp uses, which has no setting for it."""
    wide = fields["dim"] // fields["n_heads"]
    return wide if fields["n_layers"] in LARGE else fields["head_dim"] or wide


def caveats(config: Config) -> list[str]:
    """Messages about what llama.cpp would compute differently from this model."""
    untied = [] if config.tie_embeddings else ["llama.cpp cannot open a gemma2 whose output matrix is its own"]
    return [*scale_caveats(config), *untied]


def scale_caveats(config: Any) -> list[str]:
    """Messages about the scale of attention scores, for Gemma 2 and 3."""
    usual = llama_cpp_query_scale({name: getattr(config, name) for name in ("dim", "n_heads", "n_layers", "head_dim")})
    if config.query_scale == usual:
        return []
    return [f"llama.cpp divides attention scores by the root of {usual}, this model by that of {config.query_scale}"]


FAMILY = Family(
    "gemma2",
    Config,
    SIZES,
    build,
    initialize,
    {
        "hf": FormatSpec(hugging_face_tensors, HUGGING_FACE_SETTINGS, {"Gemma2ForCausalLM": "gemma2"}),
        "gguf": FormatSpec(gguf_tensors, GGUF_SETTINGS, caveats=caveats),
    },
)
