"""What GPT-2's weights and settings are called in GGUF files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.architectures.gpt2 import Config
from luthier.architectures.names.gguf.metadata import (
    EMBEDDING,
    OUTPUT,
    is_tied,
    mention_others,
    read_depth,
    read_vocab_size,
)
from luthier.architectures.names.settings import ConfigJson
from luthier.errors import LuthierError
from luthier.formats.names import Checkpoint, Rule, Split, Table, ZeroBias, each_layer


def table(config: Config) -> Table:
    """Names of llama.cpp's gpt2: q, k and v in one, always with a bias."""
    ours, theirs = "blocks.{layer}.", "blk.{layer}."
    qkv = ("query", "key", "value")
    weights = tuple(f"{ours}attention.{part}.weight" for part in qkv)
    biases = tuple(f"{ours}attention.{part}.bias" for part in qkv)
    weight, bias, thirds = theirs + "attn_qkv.weight", theirs + "attn_qkv.bias", Split((config.dim,) * 3)
    if config.qkv_bias:
        attention = [Rule(weight, weights, thirds), Rule(bias, biases, thirds)]
    else:
        attention = [Rule((weight, bias), weights, ZeroBias(out=0), thirds)]
    parts = {
        "attn_norm": "attention_norm",
        "attn_output": "attention.output",
        "ffn_norm": "feed_forward_norm",
        "ffn_up": "feed_forward.up",
        "ffn_down": "feed_forward.down",
    }
    block = [Rule(f"{theirs}{a}.{what}", f"{ours}{b}.{what}") for a, b in parts.items() for what in ("weight", "bias")]
    rules = [
        Rule(EMBEDDING, "embedding.weight"),
        Rule("position_embd.weight", "position_embedding.weight"),
        *each_layer(range(config.n_layers), attention + block),
        Rule("output_norm.weight", "norm.weight"),
        Rule("output_norm.bias", "norm.bias"),
    ]
    if config.tie_embeddings:
        return Table(rules, repeats=((OUTPUT, EMBEDDING),))
    return Table([*rules, Rule(OUTPUT, "output.weight")])


def write_config(config: Config) -> dict[str, Any]:
    """The settings of a file. A LuthierError for parts that llama.cpp's gpt2 has not."""
    for name, setting in (("exact_gelu", config.exact_gelu), ("scale_by_layer", config.scale_by_layer)):
        if setting:
            raise LuthierError(f"GGUF has no setting for {name} of gpt2: write the model as hf")
    return {
        "general.architecture": "gpt2",
        "gpt2.vocab_size": config.vocab_size,
        "gpt2.context_length": config.context_length,
        "gpt2.embedding_length": config.dim,
        "gpt2.feed_forward_length": config.hidden_dim or 4 * config.dim,
        "gpt2.block_count": config.n_layers,
        "gpt2.attention.head_count": config.n_heads,
        "gpt2.attention.layer_norm_epsilon": config.norm_eps,
        "luthier.qkv_bias": config.qkv_bias,
        "luthier.embedding_std": config.embedding_std,
        "luthier.dropout": config.dropout,
    }


def read_config(values: Mapping[str, Any], checkpoint: Checkpoint) -> Config:
    """The Config of a file. Files of old hold the embedding twice, as the output matrix too: they are tied."""
    settings = ConfigJson(values, "the settings")
    dim, n_heads = settings.count("gpt2.embedding_length"), settings.count("gpt2.attention.head_count")
    width = settings.count("gpt2.feed_forward_length", 4 * dim)
    settings.only("gpt2.attention.head_count_kv", n_heads)
    shapes = checkpoint.shapes()
    tied = is_tied(checkpoint) or (
        shapes[OUTPUT] == shapes.get(EMBEDDING) and checkpoint.tensor(OUTPUT).equal(checkpoint.tensor(EMBEDDING))
    )
    config = Config(
        vocab_size=read_vocab_size(checkpoint),
        context_length=settings.count("gpt2.context_length"),
        dim=dim,
        n_layers=read_depth(settings, "gpt2", checkpoint),
        n_heads=n_heads,
        norm_eps=settings.number("gpt2.attention.layer_norm_epsilon"),
        qkv_bias=settings.flag("luthier.qkv_bias", True),
        tie_embeddings=tied,
        dropout=settings.share("luthier.dropout", 0.1),
        embedding_std=settings.number("luthier.embedding_std", 0.02),
        hidden_dim=None if width == 4 * dim else width,
    )
    mention_others(settings, "gpt2")
    return config
