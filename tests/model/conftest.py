"""Tiny models of all three families, with weights so large that a broken law shows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from luthier.architectures import gpt2, llama, llama4
from luthier.architectures.registry import Config, build
from luthier.model.transformer import Transformer

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
TINY: dict[str, Config] = {
    "gpt2": gpt2.Config(vocab_size=61, context_length=32, dim=32, n_layers=2, n_heads=4, dropout=0.2),
    "llama": llama.Config(61, 32, 32, 48, n_layers=2, n_heads=4, n_kv_heads=2, tie_embeddings=True, dropout=0.2),
    "llama4": LLAMA4,
    "llama4, two experts a token": replace(LLAMA4, experts_per_token=2, moe_layers=(0, 1, 3), global_layers=(1,)),
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
