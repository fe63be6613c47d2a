"""What Llama's weights and settings are called in GGUF files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.architectures.llama import Config
from luthier.architectures.names.gguf.metadata import (
    EMBEDDING,
    OUTPUT,
    has_biases,
    is_tied,
    mention_others,
    read_depth,
    read_head_dim,
    read_rope,
    read_vocab_size,
    rope_rules,
    write_heads,
    write_rope,
)
from luthier.architectures.names.settings import LARGEST_CONTEXT, ConfigJson
from luthier.formats.names import Checkpoint, PairsToHalves, Rule, Table, each_layer


def table(config: Config) -> Table:
    """Names of llama.cpp's llama. Its rotary pairs are neighbours."""
    ours, theirs = "blocks.{layer}.", "blk.{layer}."
    block = [
        Rule(theirs + "attn_norm.weight", ours + "attention_norm.weight"),
        Rule(theirs + "ffn_norm.weight", ours + "feed_forward_norm.weight"),
    ]
    for what in ("weight", *["bias"] * config.attention_bias):
        block += [
            Rule(f"{theirs}attn_q.{what}", f"{ours}attention.query.{what}", PairsToHalves((config.n_heads,))),
            Rule(f"{theirs}attn_k.{what}", f"{ours}attention.key.{what}", PairsToHalves((config.n_kv_heads,))),
            Rule(f"{theirs}attn_v.{what}", f"{ours}attention.value.{what}"),
            Rule(f"{theirs}attn_output.{what}", f"{ours}attention.output.{what}"),
        ]
    for what in ("weight", *["bias"] * config.mlp_bias):
        block += [Rule(f"{theirs}ffn_{a}.{what}", f"{ours}feed_forward.{a}.{what}") for a in ("gate", "up", "down")]
    head_dim = config.head_dim or config.dim // config.n_heads
    rules = [
        Rule(EMBEDDING, "embedding.weight"),
        *rope_rules(head_dim, config.rope_theta, config.rope_scaling),
        *each_layer(range(config.n_layers), block),
        Rule("output_norm.weight", "norm.weight"),
    ]
    if not config.tie_embeddings:
        rules.append(Rule(OUTPUT, "output.weight"))
    return Table(rules, ignored=("rope_freqs.weight", "blk.*.attn_rot_embd.weight"))  # factors of 1; in files of old


def write_config(config: Config) -> dict[str, Any]:
    """The settings of a file."""
    head_dim = config.head_dim or config.dim // config.n_heads
    return {
        "general.architecture": "llama",
        "llama.vocab_size": config.vocab_size,
        "llama.context_length": config.context_length,
        "llama.embedding_length": config.dim,
        "llama.feed_forward_length": config.hidden_dim,
        "llama.block_count": config.n_layers,
        **write_heads("llama", config.n_heads, config.n_kv_heads, head_dim),
        "llama.attention.layer_norm_rms_epsilon": config.norm_eps,
        **write_rope("llama", config.rope_theta, config.rope_scaling),
        "luthier.dropout": config.dropout,
    }


def read_config(values: Mapping[str, Any], checkpoint: Checkpoint) -> Config:
    """The Config of a file. What would change the computation and is not built here is refused."""
    settings = ConfigJson(values, "the settings")
    settings.only("llama.expert_count", 0)  # Mixtral's files say llama, too
    settings.only("llama.attention.causal", True)
    settings.only("llama.attention.sliding_window", 0)
    for name in ("attention.scale", "attention.clamp_kqv", "logit_scale", "residual_scale", "embedding_scale"):
        settings.only(f"llama.{name}", None)
    dim, n_heads = settings.count("llama.embedding_length"), settings.count("llama.attention.head_count")
    head_dim = read_head_dim(settings, "llama", dim, n_heads)
    context = settings.count("llama.context_length", most=LARGEST_CONTEXT)
    theta, scaling = read_rope(settings, "llama", head_dim or dim // n_heads, checkpoint, context=context)
    config = Config(
        vocab_size=read_vocab_size(checkpoint),
        context_length=context,
        dim=dim,
        hidden_dim=settings.count("llama.feed_forward_length"),
        n_layers=read_depth(settings, "llama", checkpoint),
        n_heads=n_heads,
        n_kv_heads=settings.count("llama.attention.head_count_kv", n_heads),
        head_dim=head_dim,
        norm_eps=settings.number("llama.attention.layer_norm_rms_epsilon"),
        rope_theta=theta,
        rope_scaling=scaling,
        tie_embeddings=is_tied(checkpoint),
        dropout=settings.share("luthier.dropout", 0.0),
        attention_bias=has_biases(checkpoint, "attn_"),
        mlp_bias=has_biases(checkpoint, "ffn_"),
    )
    mention_others(settings, "llama")
    return config
