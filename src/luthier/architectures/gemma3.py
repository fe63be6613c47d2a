"""Gemma 3, text (arXiv 2503.19786): Gemma 2's block with norms of queries and keys, and two rotary bases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from luthier.architectures import config_json, gemma2, gguf_metadata, llama_like_names
from luthier.architectures.checked_values import LARGEST_CONTEXT, LARGEST_DEPTH, CheckedValues
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
    Reading,
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
from luthier.model.qk_norm import HeadNorm
from luthier.model.rope import rope
from luthier.model.rope_scaling import RopeScaling
from luthier.model.scale import RoundedScaleEmbedding
from luthier.model.transformer import Block, Transformer

THETA, LOCAL_THETA = 1_000_000.0, 10_000.0


@dataclass(frozen=True)
class Config:
    """Configuration of a Gemma 3 model, language model only. The defaults are those of 1B."""

    vocab_size: int = 262_144
    """Entries of the vocabulary."""
    context_length: int = 32_768
    """Tokens."""
    dim: int = 1152
    """Width of the residual stream."""
    hidden_dim: int = 6912
    """Width of the feed-forward."""
    n_layers: int = 26
    """Blocks."""
    n_heads: int = 4
    """Query heads."""
    n_kv_heads: int = 1
    """Key and value heads, each shared by n_heads / n_kv_heads query heads."""
    head_dim: int | None = 256
    """Width of a head; dim / n_heads unless given."""
    window: int = 512
    """Sliding window of local layers in tokens, the query's own included."""
    global_every: int = 6
    """Every n-th layer has global attention (6: layers 5, 11, ... counted from 0)."""
    global_layers: tuple[int, ...] | None = None
    """The layers with global attention, counted from 0; overrides global_every."""
    query_scale: int = 256
    """Attention scores are divided by its square root."""
    logit_softcap: float | None = None
    """Logits become softcap * tanh(logit / softcap); None: not capped."""
    norm_eps: float = 1e-6
    """Added to the mean square in RMS norm."""
    rope_theta: float = THETA
    """RoPE base of layers with global attention."""
    local_rope_theta: float = LOCAL_THETA
    """RoPE base of local layers."""
    rope_scaling: RopeScaling | None = None
    """RoPE scaling of layers with global attention."""
    tie_embeddings: bool = True
    """Use the token embedding as the output matrix."""
    dropout: float = 0.0
    """Probability, in training only. Gemma itself uses none."""


def small_config(vocab_size: int, context_length: int, dim: int, n_layers: int, n_heads: int) -> Config:
    """A Gemma 3 small enough to train on a CPU: windows of half the context, a global layer after two local ones."""
    heads = {"n_heads": n_heads, "n_kv_heads": 2, "head_dim": None, "query_scale": dim // n_heads}
    shape = {"hidden_dim": 8 * dim // 3 // 32 * 32, "n_layers": n_layers}
    layers = {"window": context_length // 2, "global_every": 3}
    return Config(vocab_size, context_length, dim, **heads, **shape, **layers)  # type: ignore[arg-type]


# the text part of models that read images, too
LARGE: dict[str, Any] = {
    "vocab_size": 262_208, "context_length": 131_072, "window": 1024,
    "rope_scaling": RopeScaling(8.0, kind="linear"),
}  # fmt: skip

SIZES = {
    "gemma3-270m": Config(dim=640, hidden_dim=2048, n_layers=18),
    "gemma3-1b": Config(),
    "gemma3-4b": Config(**LARGE, dim=2560, hidden_dim=10_240, n_layers=34, n_heads=8, n_kv_heads=4),
    "gemma3-12b": Config(**LARGE, dim=3840, hidden_dim=15_360, n_layers=48, n_heads=16, n_kv_heads=8),
    "gemma3-27b": Config(
        **LARGE, dim=5376, hidden_dim=21_504, n_layers=62, n_heads=32, n_kv_heads=16, head_dim=128, query_scale=168
    ),
    # small enough to train on a CPU; vocab_size is replaced by the tokenizer's
    "gemma3-nano": small_config(512, context_length=128, dim=128, n_layers=4, n_heads=4),
    "gemma3-micro": small_config(2048, context_length=256, dim=192, n_layers=6, n_heads=6),
    "gemma3-mini": small_config(4096, context_length=256, dim=384, n_layers=8, n_heads=6),
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
    """The block of a layer, counted from 0: local or global attention, each with its own rotary base."""
    wide, size = is_global(config, layer), head_dim(config)
    scaling = config.rope_scaling if wide else None
    turn = rope(size, config.rope_theta if wide else config.local_rope_theta, scaling)
    attention = Attention(
        config.dim,
        config.n_heads,
        config.n_kv_heads,
        config.head_dim,
        qk_steps=(HeadNorm(OffsetRMSNorm(size, config.norm_eps), OffsetRMSNorm(size, config.norm_eps)), turn),
        mask=causal if wide else SlidingWindow(config.window),
        scale=config.query_scale**-0.5 * (scaling.magnitude if scaling else 1.0) ** 2,
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
    """N(0, 0.02), as Gemma 2 (see there)."""
    initialize_normal(model, generator, std=0.02, residual_scale=(2 * config.n_layers) ** -0.5)


def qk_norms(external: str) -> list[Rule]:
    """The norms of queries and keys, with 1 added in llama.cpp. external: their names, with {} for q or k."""
    steps = (AddOne(),) if external.startswith(GGUF) else ()
    internal = BLOCK + "attention.qk_steps.0."
    pairs = (("q", "query"), ("k", "key"))
    return [Rule(external.replace("{}", a), f"{internal}{b}.weight", *steps) for a, b in pairs]


def hugging_face_tensors(config: Config) -> Table:
    """Weight table of Gemma3ForCausalLM, and of the text part of its multimodal files."""
    norms = qk_norms(HUGGING_FACE + "self_attn.{}_norm.weight")
    block = [*gemma2.hugging_face_rules(config.n_heads, config.n_kv_heads), *norms]
    layers = each_layer(range(config.n_layers), block)
    prefixes, ignored = ("language_model.", "model."), ("vision_tower.*", "multi_modal_projector.*")
    return llama_like_names.hugging_face_table(layers, config.tie_embeddings, prefixes, ignored)


CLASSES = {"Gemma3ForCausalLM": "gemma3_text", "Gemma3ForConditionalGeneration": "gemma3"}


def text_settings(values: Mapping[str, Any]) -> CheckedValues:
    """The language model's settings: in multimodal files, a section."""
    settings = CheckedValues(values)
    if "text_config" not in settings.values:
        return settings
    text = settings.section("text_config")
    return CheckedValues({"tie_word_embeddings": settings.value("tie_word_embeddings"), **text.values})


def read_ropes(reading: Reading) -> dict[str, Any]:
    """Context length, and rotary positions of both types of layer: transformers 5 has a section for each."""
    values = reading.values
    context = values.count("max_position_embeddings", 131_072, most=LARGEST_CONTEXT)
    sections = values.section("rope_parameters")
    by_type = "full_attention" in sections.values or "sliding_attention" in sections.values
    if sections.values and not by_type:
        raise LuthierError("config.json: 'rope_parameters' must have sections full_attention and sliding_attention")
    found = dict(values.value("rope_scaling") or sections.section("full_attention").values)
    found.setdefault("rope_theta", values.number("rope_theta", THETA))
    local = dict(sections.section("sliding_attention").values)
    local.setdefault("rope_theta", values.number("rope_local_base_freq", LOCAL_THETA))
    theta, scaling = config_json.read_rope(
        CheckedValues({"rope_parameters": sections.section("full_attention").values | found}), theta=THETA,
        context=context,
    )  # fmt: skip
    local_theta, local_scaling = config_json.read_rope(
        CheckedValues({"rope_parameters": local}), theta=LOCAL_THETA, context=context
    )
    if local_scaling is not None:
        raise LuthierError("config.json: rotary positions of sliding_attention that are scaled are not supported")
    if scaling is not None and scaling.depends_on_length:
        raise LuthierError(f"config.json: rope_type {scaling.kind} is not supported for gemma3")
    return {
        "context_length": context, "rope_theta": theta, "local_rope_theta": local_theta, "rope_scaling": scaling,
    }  # fmt: skip


def write_ropes(config: Config) -> Mapping[str, Any]:
    """The same in both forms. (Transformers 4 takes `rope_scaling` for the global layers alone, too.)"""
    written = dict(config_json.write_rope(config.rope_theta, config.rope_scaling, config.context_length))
    written["rope_parameters"] = {
        "full_attention": written["rope_parameters"],
        "sliding_attention": {"rope_type": "default", "rope_theta": config.local_rope_theta},
    }
    return {**written, "rope_local_base_freq": config.local_rope_theta}


HUGGING_FACE_SETTINGS: SettingList[Config] = config_json.settings(  # defaults: those of transformers' Gemma3TextConfig
    Config,
    "Gemma3ForCausalLM",
    "gemma3_text",
    Setting("vocab_size", "vocab_size", count(), default=262_208),
    Setting("hidden_size", "dim", count(), default=2304),
    Setting("intermediate_size", "hidden_dim", count(), default=9216),
    Setting("num_hidden_layers", "n_layers", count(LARGEST_DEPTH), default=26),
    Setting("num_attention_heads", "n_heads", count(), default=8),
    Setting("num_key_value_heads", "n_kv_heads", count(), default=4),
    HeadDimSetting(default=256),
    Setting("sliding_window", "window", count(LARGEST_CONTEXT), default=4096),
    LayerTypes(step=6),
    Setting("query_pre_attn_scalar", "query_scale", count(), default=256),
    Fixed("attn_logit_softcapping", None),  # transformers would not apply it
    OptionalSetting("final_logit_softcapping", "logit_softcap", positive),
    Fixed("hidden_activation", "gelu_pytorch_tanh"),
    Ignored("hidden_act", "cache_implementation"),  # transformers reads hidden_activation alone
    Setting("rms_norm_eps", "norm_eps", positive, default=1e-6),
    CustomSetting(read_ropes, write_ropes),
    Fixed("attention_bias", False),
    Fixed("use_bidirectional_attention", False),
    Setting("attention_dropout", "dropout", probability, default=0.0),
    Setting("tie_word_embeddings", "tie_embeddings", flag, default=True),
    find_settings=text_settings,
)


def gguf_tensors(config: Config) -> Table:
    """Weight table of llama.cpp's architecture "gemma3"."""
    scaling = gguf_metadata.rope_rules(head_dim(config), config.rope_theta, config.rope_scaling)
    block = [*gemma2.gguf_rules(), *qk_norms(GGUF + "attn_{}_norm.weight")]
    return gemma2.gguf_table(scaling, each_layer(range(config.n_layers), block), config.tie_embeddings)


GGUF_SETTINGS: SettingList[Config] = gguf_metadata.settings(
    Config,
    "gemma3",
    gguf_metadata.VocabSize("gemma3"),
    Setting("gemma3.context_length", "context_length", count(LARGEST_CONTEXT)),
    Setting("gemma3.embedding_length", "dim", count()),
    Setting("gemma3.feed_forward_length", "hidden_dim", count()),
    gguf_metadata.LayerCount("gemma3"),
    gguf_metadata.Heads("gemma3"),
    Setting("gemma3.attention.sliding_window", "window", count(LARGEST_CONTEXT)),
    GGUFLayerTypes("gemma3", step=6),
    Setting("luthier.query_scale", "query_scale", count(), default=lambda r: gemma2.llama_cpp_query_scale(r.fields)),
    OptionalSetting("gemma3.final_logit_softcapping", "logit_softcap", positive, null=False),
    Setting("gemma3.attention.layer_norm_rms_epsilon", "norm_eps", positive),
    gguf_metadata.RopeSettings("gemma3", scaling_types=("none", "linear")),
    Setting("gemma3.rope.freq_base_swa", "local_rope_theta", positive, default=LOCAL_THETA),
    Setting("luthier.dropout", "dropout", probability, default=0.0),
    gguf_metadata.TIED_EMBEDDINGS,
)

FAMILY = Family(
    "gemma3",
    Config,
    SIZES,
    build,
    initialize,
    {
        "hf": FormatSpec(hugging_face_tensors, HUGGING_FACE_SETTINGS, CLASSES),
        "gguf": FormatSpec(gguf_tensors, GGUF_SETTINGS, caveats=gemma2.scale_caveats),
    },
)
