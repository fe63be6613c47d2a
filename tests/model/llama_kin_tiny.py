"""Tiny models of the families that are near Llama, for what must hold for every architecture."""

from __future__ import annotations

from dataclasses import replace

from luthier.architectures import granite_moe, mistral, olmo, qwen3, smollm3
from luthier.architectures.registry import Config

SIZES = {
    "vocab_size": 61,
    "context_length": 32,
    "dim": 32,
    "hidden_dim": 48,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "head_dim": None,
    "rope_theta": 10_000.0,
    "tie_embeddings": True,
}
TINY: dict[str, Config] = {
    "mistral": mistral.Config(**SIZES, window=5, dropout=0.2),
    "qwen3": replace(qwen3.Config(**SIZES), head_dim=12),
    "smollm3": smollm3.Config(**SIZES, nope_every=2, attention_bias=True),
    "granitemoe": granite_moe.Config(
        **SIZES,
        n_experts=4,
        experts_per_token=2,
        shared_dim=24,
        embedding_multiplier=2.0,
        attention_multiplier=0.4,
        residual_multiplier=0.6,
        logits_scaling=0.5,
    ),
    "olmo3": olmo.Config(**SIZES, window=5, global_layers=(1,)),
}
