"""The config.json of published models: each opens without a remark, and is the preset of its name."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import more_published
import pytest

from luthier.architectures import registry
from luthier.model_files import hugging_face


def of(
    name: str, kind: str, dim: int, hidden: int, layers: int, heads: int, kv_heads: int, **rest: Any
) -> dict[str, Any]:
    """What every file has."""
    return {
        "architectures": [name],
        "model_type": kind,
        "hidden_act": "silu",
        "hidden_size": dim,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "initializer_range": 0.02,
        "use_cache": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.40.0",
        "bos_token_id": 1,
        "eos_token_id": 2,
        **rest,
    }


MISTRAL = {"max_position_embeddings": 32_768, "rms_norm_eps": 1e-5, "tie_word_embeddings": False}
QWEN = {"attention_dropout": 0.0, "rms_norm_eps": 1e-6, "rope_theta": 1_000_000.0, "use_sliding_window": False}
MIXTURE = {"output_router_logits": False, "router_aux_loss_coef": 0.001}
MULTIPLIED = {"attention_bias": False, "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "rope_scaling": None}
GRANITE = {**MULTIPLIED, "attention_multiplier": 0.015625, "tie_word_embeddings": True}
MAMBA = {
    "mamba_chunk_size": 256,
    "mamba_conv_bias": True,
    "mamba_d_conv": 4,
    "mamba_d_head": 40,
    "mamba_d_state": 256,
    "mamba_expand": 2,
    "mamba_n_groups": 1,
    "mamba_n_heads": 128,
    "mamba_proj_bias": False,
}
OLMO = {"attention_bias": False, "attention_dropout": 0.0, "pad_token_id": 100_277, "rms_norm_eps": 1e-6}
LOCAL, GLOBAL = "sliding_attention", "full_attention"

PUBLISHED: dict[str, dict[str, Any]] = {
    "mistral-7b-v0.1": of(
        "MistralForCausalLM", "mistral", 4096, 14_336, 32, 32, 8, **MISTRAL, vocab_size=32_000, rope_theta=10_000.0,
        sliding_window=4096,
    ),
    "mistral-7b-v0.3": of(
        "MistralForCausalLM", "mistral", 4096, 14_336, 32, 32, 8, **MISTRAL, vocab_size=32_768, rope_theta=1e6,
        sliding_window=None, attention_dropout=0.0,
    ),
    "ministral-8b": of(
        "MistralForCausalLM", "mistral", 4096, 12_288, 36, 32, 8, **MISTRAL, vocab_size=131_072, rope_theta=1e8,
        sliding_window=32_768, head_dim=128, attention_dropout=0.0,
    ),
    "mixtral-8x7b": of(
        "MixtralForCausalLM", "mixtral", 4096, 14_336, 32, 32, 8, **MISTRAL, **MIXTURE, vocab_size=32_000,
        rope_theta=1e6, sliding_window=None, num_experts_per_tok=2, num_local_experts=8, attention_dropout=0.0,
    ),
    "qwen2.5-0.5b": of(
        "Qwen2ForCausalLM", "qwen2", 896, 4864, 24, 14, 2, **QWEN, vocab_size=151_936, max_position_embeddings=32_768,
        max_window_layers=24, sliding_window=32_768, use_mrope=False, tie_word_embeddings=True,
    ),
    "qwen3-0.6b": of(
        "Qwen3ForCausalLM", "qwen3", 1024, 3072, 28, 16, 8, **QWEN, vocab_size=151_936, max_position_embeddings=40_960,
        max_window_layers=28, sliding_window=None, head_dim=128, attention_bias=False, rope_scaling=None,
        tie_word_embeddings=True,
    ),
    "qwen3-30b-a3b": of(
        "Qwen3MoeForCausalLM", "qwen3_moe", 2048, 6144, 48, 32, 4, **QWEN, **MIXTURE, vocab_size=151_936,
        max_position_embeddings=40_960, max_window_layers=48, sliding_window=None, head_dim=128, attention_bias=False,
        rope_scaling=None, tie_word_embeddings=False, decoder_sparse_step=1, mlp_only_layers=[],
        moe_intermediate_size=768, norm_topk_prob=True, num_experts=128, num_experts_per_tok=8,
    ),
    "smollm3-3b": of(
        "SmolLM3ForCausalLM", "smollm3", 2048, 11_008, 36, 16, 4, vocab_size=128_256, max_position_embeddings=65_536,
        max_window_layers=28, sliding_window=None, use_sliding_window=False, attention_bias=False, mlp_bias=False,
        attention_dropout=0.0, rms_norm_eps=1e-6, rope_theta=5e6, rope_scaling=None, pretraining_tp=2,
        no_rope_layer_interval=4, no_rope_layers=[1, 1, 1, 0] * 9, layer_types=[GLOBAL] * 36, pad_token_id=128_004,
    ),
    "olmo2-1b": of(
        "Olmo2ForCausalLM", "olmo2", 2048, 8192, 16, 16, 16, **OLMO, vocab_size=100_352, max_position_embeddings=4096,
        rope_theta=500_000, rope_scaling=None, tie_word_embeddings=False,
    ),
    "olmo3-7b": of(
        "Olmo3ForCausalLM", "olmo3", 4096, 11_008, 32, 32, 32, **OLMO, vocab_size=100_278,
        max_position_embeddings=65_536, rope_theta=500_000, tie_word_embeddings=False, sliding_window=4096,
        layer_types=[LOCAL, LOCAL, LOCAL, GLOBAL] * 8,
        rope_scaling={
            "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 8192, "beta_fast": 32.0,
            "beta_slow": 1.0,
        },
    ),
    "granite3.1-2b": of(
        "GraniteForCausalLM", "granite", 2048, 8192, 40, 32, 8, **GRANITE, vocab_size=49_155, logits_scaling=8.0,
        mlp_bias=False, attention_dropout=0.1, max_position_embeddings=131_072, rms_norm_eps=1e-5, rope_theta=5e6,
    ),
    "granite3.1-1b-a400m": of(
        "GraniteMoeForCausalLM", "granitemoe", 1024, 512, 24, 16, 8, **GRANITE, **MIXTURE, vocab_size=49_155,
        logits_scaling=6.0, attention_dropout=0.1, max_position_embeddings=131_072, rms_norm_eps=1e-6, rope_theta=1.5e6,
        num_experts_per_tok=8, num_local_experts=32,
    ),
    "granite4.0-micro": of(
        "GraniteMoeHybridForCausalLM", "granitemoehybrid", 2560, 8192, 40, 40, 8, **GRANITE, **MIXTURE, **MAMBA,
        vocab_size=100_352, logits_scaling=10, attention_dropout=0.0, max_position_embeddings=131_072,
        rms_norm_eps=1e-5, rope_theta=10_000_000, num_experts_per_tok=0, num_local_experts=0, init_method="mup",
        shared_intermediate_size=8192, layer_types=["attention"] * 40, normalization_function="rmsnorm",
        position_embedding_type="rope",
    ),
}  # fmt: skip


PUBLISHED |= more_published.PUBLISHED


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_is_read_without_a_remark_as_the_preset_of_its_name(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = hugging_face.read_config(PUBLISHED[name])
    assert replace(found, dropout=0.0) == registry.preset(name)
