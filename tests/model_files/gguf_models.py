"""Tiny models of each family, in the variants that GGUF files must tell apart."""

from __future__ import annotations

from dataclasses import replace

import llama_kin_gguf
import more_gguf
import torch

from luthier.architectures import gpt2, llama, llama4, registry
from luthier.architectures.registry import Config
from luthier.model.rope_scaling import RopeScaling
from luthier.model.transformer import Transformer

VOCAB = 97
GPT2 = {"vocab_size": VOCAB, "context_length": 64, "dim": 32, "n_layers": 2, "n_heads": 4}
LLAMA = {**GPT2, "hidden_dim": 48, "n_kv_heads": 2}
# experts on the odd layers, layer 3 global
LLAMA4 = {**LLAMA, "n_layers": 4, "dense_hidden_dim": 64, "n_experts": 4, "moe_every": 2}
STRETCH, STRETCH4 = RopeScaling(8.0, 1.0, 4.0, 32), RopeScaling(16.0, 1.0, 1.0, 32)
FACTOR = RopeScaling(1.0, kind="linear", attention_factor=1.25)
YARN = RopeScaling(4.0, original_context_length=8, kind="yarn", beta_fast=2.0)
LONGROPE = RopeScaling(
    2.0, original_context_length=32, kind="longrope", short_factors=(1.0, 1.2, 1.5, 2.0), long_factors=(1.0, 2, 4, 8)
)

# those that llama.cpp computes as we do
CONFIGS: dict[str, Config] = {
    "gpt2": gpt2.Config(**GPT2),
    "gpt2-course": gpt2.Config(**GPT2, qkv_bias=False, tie_embeddings=False, dropout=0.2, embedding_std=1.0),
    "llama": llama.Config(**LLAMA),
    "llama, tied": llama.Config(**LLAMA, tie_embeddings=True, rope_theta=500_000.0, norm_eps=1e-3),
    "llama 3.1": llama.Config(**LLAMA, rope_scaling=STRETCH, dropout=0.1),
    "llama with wide heads": llama.Config(**LLAMA, head_dim=16),
    "llama, biases": llama.Config(**LLAMA, attention_bias=True, mlp_bias=True),
    "llama, linear": llama.Config(**LLAMA, rope_scaling=RopeScaling(4.0, kind="linear")),
    "llama, attention factor": llama.Config(**LLAMA, rope_scaling=FACTOR),
    "llama, yarn": llama.Config(**LLAMA, rope_scaling=YARN),
    "llama, yarn with a factor": llama.Config(**LLAMA, rope_scaling=replace(YARN, attention_factor=1.5)),
    "llama4, yarn": llama4.Config(**LLAMA4, rope_scaling=YARN),
    "gpt2, narrow": gpt2.Config(**GPT2, hidden_dim=96),
    "llama4": llama4.Config(**LLAMA4),
    "llama4, two experts a token": llama4.Config(**LLAMA4, experts_per_token=2, rope_scaling=STRETCH4, head_dim=16),
    **llama_kin_gguf.CONFIGS,
    **more_gguf.CONFIGS,
}
# and those that it has no setting for
OURS: dict[str, Config] = {
    "llama, longrope": llama.Config(**LLAMA, rope_scaling=LONGROPE),  # it goes by the context there, not by the text
    "llama4, own layers": llama4.Config(**LLAMA4, moe_layers=(0, 3), global_layers=(), tie_embeddings=True),
    "llama4, own chunks": llama4.Config(**LLAMA4, attention_chunk=8, temperature_floor=4, global_every=2),
    "llama4, no norm": llama4.Config(**LLAMA4, qk_norm=False, temperature_tuning=False),
    **llama_kin_gguf.OURS,
    **more_gguf.OURS,
}


def random_model(config: Config) -> Transformer:
    """Weights that show every mistake: no bias is 0, no norm is 1, and attention is far from uniform."""
    model = registry.build(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(0, 0.25, generator=generator)
            if weight.ndim == 1 and name.endswith("weight"):
                weight += 1
            if weight.ndim == 1:
                weight.copy_(weight.bfloat16())  # so that 1 + w is exact, which GGUF files of some families hold
    return model.eval()
