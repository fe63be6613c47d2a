"""Settings that Llama-like models share, by format: sizes, heads, the norm's eps, RoPE."""

from __future__ import annotations

from typing import Any

from luthier.architectures import config_json, gguf_metadata
from luthier.architectures.checked_values import LARGEST_CONTEXT, LARGEST_DEPTH, LARGEST_EXPERTS
from luthier.architectures.settings import (
    Entry,
    Fixed,
    HeadDimSetting,
    Ignored,
    Setting,
    count,
    flag,
    positive,
    probability,
    same_as,
)

OF_TRAINING = Ignored("router_aux_loss_coef", "router_jitter_noise", "output_router_logits")


def hugging_face(
    *,
    eps: float,
    context: int = 2048,
    theta: float = 10_000.0,
    head_dim: int | None = None,
    kv_heads: int | None = None,
    width: str = "intermediate_size",
    tied: bool = False,
    rope: Entry[Any] | None = None,
    activation: Entry[Any] | None = None,
) -> tuple[Entry[Any], ...]:
    """The shared settings in config.json, with `transformers`' defaults: eps of the norms, context, theta, head_dim,
    kv_heads (None: as many as heads), tied. width: the name of the feed-forward's width. rope: the entry for RoPE and
    the context length, activation that for the feed-forward's, if they are not the usual ones.
    """
    return (
        Setting("vocab_size", "vocab_size", count()),
        Setting("hidden_size", "dim", count()),
        Setting(width, "hidden_dim", count()),
        Setting("num_hidden_layers", "n_layers", count(LARGEST_DEPTH)),
        Setting("num_attention_heads", "n_heads", count()),
        Setting("num_key_value_heads", "n_kv_heads", count(), default=kv_heads or same_as("n_heads")),
        HeadDimSetting(default=head_dim),
        activation or Fixed("hidden_act", "silu", also=("swish",)),
        Setting("rms_norm_eps", "norm_eps", positive, default=eps),
        rope or config_json.RopeSettings(theta=theta, context=context),
        Setting("attention_dropout", "dropout", probability, default=0.0),
        Setting("tie_word_embeddings", "tie_embeddings", flag, default=tied),
    )


def gguf(section: str, *, width: str = "feed_forward_length", factors: bool = True) -> tuple[Entry[Any], ...]:
    """The shared settings in GGUF. width: the name of the feed-forward's width. factors: whether llama.cpp reads
    tensors of rotary factors for this architecture, as Llama 3.1's scaling and longrope need.
    """
    scaling_types = gguf_metadata.SCALING_TYPES if factors else ("none", "linear", "yarn")
    return (
        gguf_metadata.VocabSize(section),
        Setting(f"{section}.context_length", "context_length", count(LARGEST_CONTEXT)),
        Setting(f"{section}.embedding_length", "dim", count()),
        Setting(f"{section}.{width}", "hidden_dim", count()),
        gguf_metadata.LayerCount(section),
        gguf_metadata.Heads(section),
        Setting(f"{section}.attention.layer_norm_rms_epsilon", "norm_eps", positive),
        gguf_metadata.RopeSettings(section, scaling_types, factors),
        Setting("luthier.dropout", "dropout", probability, default=0.0),
        gguf_metadata.TIED_EMBEDDINGS,
    )


def gguf_experts(section: str) -> tuple[Entry[Any], ...]:
    """The number of experts, and of experts per token, in GGUF."""
    return (
        Setting(f"{section}.expert_count", "n_experts", count(LARGEST_EXPERTS)),
        Setting(f"{section}.expert_used_count", "experts_per_token", count()),
    )
