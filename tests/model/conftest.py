"""Tiny models of every family, with weights so large that a broken invariant shows."""

from __future__ import annotations

from dataclasses import replace

import llama_kin_tiny
import pytest
import torch

from luthier.architectures import composed, deepseek, gemma3, gpt2, gpt_oss, gptneox, llama, llama4, nanochat, phi3
from luthier.architectures.registry import FAMILIES, Config, build, name_of, preset
from luthier.model.rope_scaling import RopeScaling
from luthier.model.transformer import Transformer

LLAMA = llama.Config(61, 32, 32, 48, n_layers=2, n_heads=4, n_kv_heads=2, tie_embeddings=True, dropout=0.2)
LINEAR = RopeScaling(4.0, kind="linear", attention_factor=1.2)
YARN = RopeScaling(4.0, original_context_length=8, kind="yarn", beta_fast=2.0)
LONGROPE = RopeScaling(
    original_context_length=32, kind="longrope", short_factors=(1.0, 1.2, 1.5, 2.0), long_factors=(1.0, 2.0, 4.0, 8.0)
)
LLAMA4 = llama4.Config(
    vocab_size=61,
    context_length=32,
    dim=32,
    hidden_dim=24,
    dense_hidden_dim=40,
    n_layers=4,
    n_heads=4,
    n_kv_heads=2,
    head_dim=12,
    n_experts=4,
    moe_every=2,
    attention_chunk=5,
    temperature_floor=4,
    temperature_scale=0.7,
)
GEMMA3 = gemma3.Config(
    61, 32, 32, 48, 3, 4, 2, head_dim=12, window=5, global_every=2, query_scale=12, logit_softcap=20.0, dropout=0.2
)
PART = RopeScaling(original_context_length=32, kind="longrope", short_factors=(1.0, 1.2), long_factors=(1.0, 3.0))
OSS = gpt_oss.Config(61, 32, 32, 24, 2, 4, 2, head_dim=12, n_experts=4, experts_per_token=2, window=5, dropout=0.2)
DEEPSEEK = deepseek.Config(
    61, 32, 32, 16, 48, 2, 4, query_rank=24, latent_rank=16, nope_dim=8, rope_dim=4, value_dim=6, n_experts=8,
    experts_per_token=2, n_groups=4, groups_per_token=2, sigmoid=True, normalize_weights=True, rope_scaling=YARN,
    mscale_all_dim=0.7, dropout=0.2,
)  # fmt: skip
TINY: dict[str, Config] = {
    "gpt2": gpt2.Config(vocab_size=61, context_length=32, dim=32, n_layers=2, n_heads=4, dropout=0.2),
    "llama": LLAMA,
    "gpt2, other parts": gpt2.Config(
        61, 32, 32, 3, 4, dropout=0.2, hidden_dim=40, exact_gelu=True, scale_by_layer=True, qkv_bias=False
    ),
    "llama, linear, biases": replace(LLAMA, rope_scaling=LINEAR, attention_bias=True, mlp_bias=True),
    "llama, yarn": replace(LLAMA, rope_scaling=YARN),
    # up to the length that they were trained on: beyond, they break the invariant of the cache, as in transformers
    "llama, dynamic": replace(LLAMA, rope_scaling=RopeScaling(4.0, original_context_length=32, kind="dynamic")),
    "llama, longrope": replace(LLAMA, rope_scaling=LONGROPE),
    "llama4": LLAMA4,
    "gemma3": GEMMA3,
    "composed": composed.Config(
        61,
        32,
        32,
        3,
        4,
        norm="rms",
        norm_placement="both",
        positions="rope",
        n_kv_heads=2,
        nope_layers=(1,),
        qk_norm="all_heads",
        window=5,
        global_layers=(1,),
        sinks=True,
        feed_forward="geglu",
        mlp_bias=False,
        hidden_dim=40,
        n_experts=4,
        expert_dim=24,
        shared_dim=16,
        dense_layers=(0,),
        dropout=0.2,
    ),
    "phi3, window, part": phi3.Config(61, 32, 32, 48, 2, 4, 2, rotary_dim=4, window=5, rope_scaling=PART, dropout=0.2),
    "gpt-oss": OSS,
    "deepseek-v3": DEEPSEEK,
    "nanochat": nanochat.Config(61, 32, 32, 48, 2, 4, 2, dropout=0.2),
    "gptneox": gptneox.Config(61, 32, 32, 48, 2, 4, rotary_dim=4, dropout=0.2),
    "llama4, two experts a token": replace(LLAMA4, experts_per_token=2, moe_layers=(0, 1, 3), global_layers=(1,)),
    **llama_kin_tiny.TINY,
}
COVERED = {name_of(config) for config in TINY.values()}
TINY |= {  # the other families: as they are, with their nano's flags
    name: replace(preset(f"{name}-nano"), vocab_size=61, context_length=32, n_layers=2, dropout=0.2)
    for name in FAMILIES
    if name not in COVERED
}


@torch.no_grad()
def enliven(model: torch.nn.Module, seed: int = 1) -> None:
    """Weights that keep the size of what passes through them, and biases and norms that are not 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.ndim == 1:
            weight.add_(0.3 * noise)
        else:
            fan_in = weight.shape[-2] if weight.ndim == 3 else 1 if "embedding" in name else weight.shape[-1]
            weight.copy_(1.5 * noise * fan_in**-0.5)


@pytest.fixture(scope="session", params=list(TINY))
def config(request: pytest.FixtureRequest) -> Config:
    return TINY[request.param]


@pytest.fixture(scope="session")
def model(config: Config) -> Transformer:
    """A lively tiny model, in evaluation. Shared: a test that changes it takes a copy."""
    model = build(config, seed=0).eval()
    enliven(model)
    return model.requires_grad_(False)
