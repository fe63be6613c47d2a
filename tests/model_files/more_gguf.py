"""Tiny models of the families that are further from Llama, in the variants that GGUF files must tell apart."""

from __future__ import annotations

from dataclasses import replace

from luthier.architectures import deepseek, gemma2, gemma3, gpt_oss, gptneox, phi3, stablelm
from luthier.architectures.registry import Config
from luthier.model.rope_scaling import RopeScaling

SIZES = {"vocab_size": 97, "context_length": 64, "dim": 32, "hidden_dim": 64, "n_layers": 3}
GEMMA = {**SIZES, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16, "query_scale": 16, "window": 6}
WIDE = {**SIZES, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1}  # heads of 16
NEOX = {**SIZES, "n_layers": 2, "n_heads": 2, "exact_gelu": False}
LONGROPE = RopeScaling(
    2.0, original_context_length=512, kind="longrope", short_factors=(1.0, 1.2, 1.5, 2.0),
    long_factors=(1.0, 2.0, 4.0, 8.0),
)  # fmt: skip

OSS = {**SIZES, "hidden_dim": 32, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16, "window": 6}
OSS |= {"n_experts": 6, "experts_per_token": 2}
DEEPSEEK = {
    **SIZES, "hidden_dim": 32, "dense_hidden_dim": 64, "n_heads": 4, "latent_rank": 32, "nope_dim": 16, "rope_dim": 8,
    "value_dim": 16, "n_experts": 8, "experts_per_token": 3,
}  # fmt: skip
YARN = RopeScaling(4.0, original_context_length=8, kind="yarn", beta_fast=2.0)
FACTOR_1 = replace(YARN, attention_factor=1.0)

# those that llama.cpp computes as we do
CONFIGS: dict[str, Config] = {
    "gemma2": gemma2.Config(**GEMMA),
    "gemma2, own layers": gemma2.Config(**GEMMA, attention_softcap=5.0, logit_softcap=3.0, global_layers=(0,)),
    "gemma3": gemma3.Config(**GEMMA, global_every=2),
    "gemma3, own layers": gemma3.Config(
        **GEMMA, global_layers=(0, 2), logit_softcap=3.0, tie_embeddings=False, rope_theta=500.0,
        local_rope_theta=77.0, rope_scaling=RopeScaling(8.0, kind="linear"),
    ),
    "phi3": phi3.Config(**WIDE, tie_embeddings=True),
    "phi3, longrope on a part": phi3.Config(**WIDE, rotary_dim=8, rope_scaling=LONGROPE),
    "gptneox": gptneox.Config(**NEOX, rotary_dim=4, tie_embeddings=True),
    "gptneox, one after the other": gptneox.Config(**NEOX, rotary_dim=None, parallel=False, rope_theta=500.0),
    "gpt-oss": gpt_oss.Config(**OSS, tie_embeddings=True),
    "gpt-oss, own layers, yarn": gpt_oss.Config(
        **OSS, global_layers=(0, 2), rope_theta=10_000.0, rope_scaling=replace(YARN, beta_fast=2.0)
    ),
    "deepseek-v2-lite": deepseek.Config(**DEEPSEEK),
    "deepseek-v2, yarn": deepseek.Config(**DEEPSEEK, rope_scaling=FACTOR_1, mscale_all_dim=0.707, query_rank=32),
    "deepseek-v3": deepseek.Config(
        **{**DEEPSEEK, "n_dense_layers": None}, rope_scaling=FACTOR_1, mscale_all_dim=1.0, query_rank=32, sigmoid=True,
        normalize_weights=True, weight_scale=2.5, n_groups=4, groups_per_token=2,
    ),
    "stablelm": stablelm.Config(**WIDE, rotary_dim=4, qkv_bias=True),
    "stablelm, tied": stablelm.Config(**WIDE, rotary_dim=4, qk_norm=True, tie_embeddings=True),
    "stablelm2-12b": stablelm.Config(**WIDE, rotary_dim=8, qk_norm=True, parallel=True),
}  # fmt: skip
# and those that it has no setting for
OURS: dict[str, Config] = {
    "gemma3, other scale": gemma3.Config(**{**GEMMA, "query_scale": 9}),
    "gpt-oss, other gate": gpt_oss.Config(**OSS, swiglu_limit=1.0, rope_scaling=replace(YARN, truncate=False)),
    "deepseek-v2, groups": deepseek.Config(**DEEPSEEK, n_groups=4, groups_per_token=2),
    "deepseek-v2, other yarn": deepseek.Config(**DEEPSEEK, rope_scaling=YARN),
    "phi3, window": phi3.Config(**WIDE, window=6),
    "gptneox, exact": gptneox.Config(**{**NEOX, "exact_gelu": True}, rotary_dim=4),
    "gptneox, no biases": gptneox.Config(**NEOX, rotary_dim=4, attention_bias=False),
}
