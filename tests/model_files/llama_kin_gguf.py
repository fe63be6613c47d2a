"""Tiny models of the families that are near Llama, in the variants that GGUF files must tell apart."""

from __future__ import annotations

from luthier.architectures import (
    arcee,
    ernie4_5,
    granite,
    granite_moe,
    helium,
    mistral,
    mixtral,
    olmo,
    qwen2,
    qwen3,
    qwen3_moe,
    smollm3,
)
from luthier.architectures.registry import Config
from luthier.model.rope_scaling import RopeScaling

SIZES = {
    "vocab_size": 97,
    "context_length": 64,
    "dim": 32,
    "hidden_dim": 48,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "tie_embeddings": False,
}
WIDE = {**SIZES, "head_dim": 16}
YARN = RopeScaling(4.0, original_context_length=8, kind="yarn", beta_fast=2.0)
FOUR = {**SIZES, "n_layers": 4}
MULTIPLIED = {**SIZES, "attention_multiplier": 0.5, "embedding_multiplier": 3.0, "logits_scaling": 1.5}
EXPERTS = {**WIDE, "n_experts": 6, "experts_per_token": 2}

# those that llama.cpp computes as we do
CONFIGS: dict[str, Config] = {
    "mistral": mistral.Config(**WIDE, norm_eps=1e-3),
    "qwen2": qwen2.Config(**{**SIZES, "tie_embeddings": True}),
    "qwen2, yarn": qwen2.Config(**SIZES, rope_theta=10_000.0, rope_scaling=YARN),
    "qwen3": qwen3.Config(**{**WIDE, "tie_embeddings": True}),
    "qwen3, yarn": qwen3.Config(**WIDE, rope_theta=10_000.0, rope_scaling=YARN, norm_eps=1e-3),
    "qwen3moe": qwen3_moe.Config(**EXPERTS, dense_hidden_dim=64),
    "mixtral": mixtral.Config(**EXPERTS, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 32)),
    "smollm3": smollm3.Config(**{**WIDE, "n_layers": 4}),
    "olmo2": olmo.Config(**SIZES),
    "arcee": arcee.Config(**WIDE, rope_scaling=YARN),
    "ernie 4.5": ernie4_5.Config(**{**WIDE, "tie_embeddings": True}),
    "helium": helium.Config(**SIZES, rope_theta=1e4, rope_scaling=YARN),
    "granite": granite.Config(**MULTIPLIED, mlp_bias=True, attention_bias=True),
    "granite 4": granite.Config(**{**MULTIPLIED, "tie_embeddings": True}, hybrid_names=True),
    "granitemoe": granite_moe.Config(**MULTIPLIED, n_experts=6, experts_per_token=2),
    "granitemoe, shared": granite_moe.Config(**MULTIPLIED, n_experts=6, experts_per_token=2, shared_dim=64),
    "olmo3": olmo.Config(**FOUR, window=6, global_layers=(3,), rope_theta=10_000.0, rope_scaling=YARN),
    "olmo3, every second layer global": olmo.Config(**FOUR, window=6, global_layers=(1, 3)),
}
# and those that it has no setting for
OURS: dict[str, Config] = {
    "mistral, windows": mistral.Config(**SIZES, window=8, global_layers=(1,)),
    "qwen2, windows": qwen2.Config(**SIZES, window=8, global_layers=(0,)),
    "qwen3, windows, biases": qwen3.Config(**WIDE, window=8, attention_bias=True),
    "mixtral, window": mixtral.Config(**EXPERTS, window=8),
    "smollm3, own layers": smollm3.Config(**SIZES, nope_layers=(0,), window=8, global_layers=(1,)),
    "smollm3, every second layer": smollm3.Config(**SIZES, nope_every=2, attention_bias=True, mlp_bias=True),
    "arcee, biases": arcee.Config(**SIZES, attention_bias=True, mlp_bias=True),
    "olmo3, own layers": olmo.Config(**FOUR, window=8, global_layers=(0, 3)),
    "qwen3moe, other": qwen3_moe.Config(
        **EXPERTS, dense_hidden_dim=64, normalize_weights=False, moe_every=1, dense_layers=(0,), window=8
    ),
}
