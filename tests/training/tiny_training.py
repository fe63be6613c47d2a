"""Models of a thousand parameters, a text of ids with a pattern, and trainers on both."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from luthier.architectures import deepseek, gemma2, gpt2, gpt_oss, llama, llama4
from luthier.architectures.registry import Config, build
from luthier.data.batches import BatchSource, PaddedDocuments, RandomWindows, SlidingWindows
from luthier.data.shards import TokenShards
from luthier.training.loop import Trainer
from luthier.training.objective import Objective
from luthier.training.settings import Settings

VOCABULARY, CONTEXT = 23, 8
LLAMA = llama.Config(VOCABULARY, CONTEXT, 16, 24, n_layers=2, n_heads=4, n_kv_heads=2, tie_embeddings=True)
DROPOUT = gpt2.Config(VOCABULARY, CONTEXT, 16, n_layers=2, n_heads=2, dropout=0.3)
MIXTURE = llama4.Config(
    VOCABULARY, CONTEXT, 16, 12, 24, n_layers=2, n_heads=4, n_kv_heads=2, n_experts=4, attention_chunk=4
)
LATENT = deepseek.Config(
    VOCABULARY, CONTEXT, 16, 12, 24, 2, 2, latent_rank=8, nope_dim=8, rope_dim=4, value_dim=8, n_experts=4,
    experts_per_token=2, n_shared_experts=1, sigmoid=True, normalize_weights=True,
)  # fmt: skip
SINKS = gpt_oss.Config(
    VOCABULARY, CONTEXT, 16, 12, 2, 2, 1, head_dim=8, n_experts=4, experts_per_token=2, window=3, tie_embeddings=True
)
CAPPED = gemma2.Config(VOCABULARY, CONTEXT, 16, 24, 2, 2, 1, head_dim=8, window=3, query_scale=8)
SETTINGS = Settings(batch_size=4, learning_rate=1e-2, warmup=2, precision="float32", compile="no", seed=3)


def text(length: int = 150) -> TokenShards:
    """Ids that follow one another by a rule with noise, in documents of 1 to 11."""
    generator = np.random.default_rng(5)
    ids = np.cumsum(generator.choice([1, 2, 5], length)) % VOCABULARY
    starts = np.concatenate([[0], np.cumsum(generator.integers(1, 12, length))])
    return TokenShards([ids.astype(np.uint16)], documents=starts[starts < length].astype(np.int64))


def source(kind: str, settings: Settings, tokens: TokenShards) -> BatchSource:
    if kind == "sliding":
        return SlidingWindows(tokens, CONTEXT, settings.batch_size, stride=5, seed=settings.seed)
    if kind == "documents":
        return PaddedDocuments(tokens, CONTEXT, settings.batch_size, seed=settings.seed, pad_id=1)
    return RandomWindows(tokens, CONTEXT, settings.batch_size, seed=settings.seed)


def trainer(
    config: Config = LLAMA, kind: str = "random", steps: int = 12, objective: Objective | None = None, **changes: Any
) -> Trainer:
    settings = replace(SETTINGS, **changes)
    model = build(config, seed=settings.seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(8)  # fresh weights are so small that all models are alike
    return Trainer(model, source(kind, settings, text()), settings, steps, objective=objective)
