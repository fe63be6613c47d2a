"""Tiny models of each family, in the variants that GGUF files must tell apart."""

from __future__ import annotations

import torch

from luthier.architectures import gpt2, llama, llama4, registry
from luthier.architectures.registry import Config
from luthier.model.rope import RopeScaling
from luthier.model.transformer import Transformer

VOCAB = 97
GPT2 = {"vocab_size": VOCAB, "context_length": 64, "dim": 32, "n_layers": 2, "n_heads": 4}
LLAMA = {**GPT2, "hidden_dim": 48, "n_kv_heads": 2}
# experts on the odd layers, layer 3 global
LLAMA4 = {**LLAMA, "n_layers": 4, "dense_hidden_dim": 64, "n_experts": 4, "moe_every": 2}
STRETCH, STRETCH4 = RopeScaling(8.0, 1.0, 4.0, 32), RopeScaling(16.0, 1.0, 1.0, 32)

# those that llama.cpp computes as we do
CONFIGS: dict[str, Config] = {
    "gpt2": gpt2.Config(**GPT2),
    "gpt2-course": gpt2.Config(**GPT2, qkv_bias=False, tie_embeddings=False, dropout=0.2, embedding_std=1.0),
    "llama": llama.Config(**LLAMA),
    "llama, tied": llama.Config(**LLAMA, tie_embeddings=True, rope_theta=500_000.0, norm_eps=1e-3),
    "llama 3.1": llama.Config(**LLAMA, rope_scaling=STRETCH, dropout=0.1),
    "llama with wide heads": llama.Config(**LLAMA, head_dim=16),
    "llama4": llama4.Config(**LLAMA4),
    "llama4, two experts a token": llama4.Config(**LLAMA4, experts_per_token=2, rope_scaling=STRETCH4, head_dim=16),
}
# and those that it has no setting for
OURS: dict[str, Config] = {
    "llama4, own layers": llama4.Config(**LLAMA4, moe_layers=(0, 3), global_layers=(), tie_embeddings=True),
    "llama4, own chunks": llama4.Config(**LLAMA4, attention_chunk=8, temperature_floor=4, global_every=2),
    "llama4, no norm": llama4.Config(**LLAMA4, qk_norm=False, temperature_tuning=False),
}


def random_model(config: Config) -> Transformer:
    """Weights that show every mistake: no bias is 0, no norm is 1, and attention is far from uniform."""
    model = registry.build(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(0, 0.25, generator=generator)
            if name.endswith("norm.weight"):
                weight += 1
    return model.eval()
