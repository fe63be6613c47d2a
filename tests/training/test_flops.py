"""FLOPs of a training step, counted by hand."""

from __future__ import annotations

from luthier.architectures import deepseek, gemma3, gpt_oss, registry
from luthier.training.flops import flops_per_token


def count(config) -> int:
    return flops_per_token(registry.build_on_meta(config), config.context_length)


def test_layers_with_a_window_count_the_window():
    config = gemma3.Config(61, 64, 32, 48, n_layers=3, n_heads=4, n_kv_heads=2, head_dim=8, window=16, global_every=3)
    linears = 3 * (32 * 32 * 2 + 2 * 32 * 16 + 3 * 32 * 48) + 32 * 61
    assert count(config) == 6 * linears + 12 * 4 * 8 * (16 + 16 + 64)


def test_experts_count_as_often_as_they_are_used_and_without_their_biases():
    config = gpt_oss.Config(61, 64, 32, 24, 1, 4, 2, head_dim=8, n_experts=6, experts_per_token=2, global_layers=(0,))
    linears = 2 * 32 * 32 + 2 * 32 * 16 + 6 * 32 + 2 * 3 * 32 * 24 + 32 * 61
    assert count(config) == 6 * linears + 12 * 4 * 8 * 64


def test_latent_attention_counts_its_ways_up_and_both_widths():
    config = deepseek.Config(
        61, 64, 32, 16, 48, 1, 4, query_rank=24, latent_rank=16, nope_dim=8, rope_dim=4, value_dim=6, n_dense_layers=1
    )
    attention = 32 * 24 + 24 * 4 * 12 + 32 * 20 + 16 * 4 * 8 + 16 * 4 * 6 + 4 * 6 * 32
    linears = attention + 3 * 32 * 48 + 32 * 61
    assert count(config) == 6 * linears + 6 * 64 * 4 * (12 + 6)
