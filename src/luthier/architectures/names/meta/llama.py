"""What the weights and settings of Llama 2 and 3 are called in Meta's folders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.architectures.llama import Config
from luthier.architectures.names.meta.params_json import (
    LARGEST_MULTIPLE,
    OURS,
    multiple_in,
    multiplier_for,
    our_scaling,
    read_scaling,
    settings_of,
    swiglu_width,
    write_scaling,
)
from luthier.architectures.names.settings import LARGEST_CONTEXT, LARGEST_DEPTH
from luthier.errors import LuthierError
from luthier.formats.names import PairsToHalves, Rule, Table, each_layer

LLAMA32 = ((2048, 16), (3072, 28))  # (dim, n_layers): these stretch positions 32 times, and their files do not say so


def table(config: Config) -> Table:
    """Names of Meta's Transformer, whose rotary pairs are neighbours. The output matrix is always written."""
    ours, theirs = "blocks.{layer}.", "layers.{layer}."
    block = [
        Rule(theirs + "attention_norm.weight", ours + "attention_norm.weight"),
        Rule(theirs + "attention.wq.weight", ours + "attention.query.weight", PairsToHalves((config.n_heads,))),
        Rule(theirs + "attention.wk.weight", ours + "attention.key.weight", PairsToHalves((config.n_kv_heads,))),
        Rule(theirs + "attention.wv.weight", ours + "attention.value.weight"),
        Rule(theirs + "attention.wo.weight", ours + "attention.output.weight"),
        Rule(theirs + "ffn_norm.weight", ours + "feed_forward_norm.weight"),
        Rule(theirs + "feed_forward.w1.weight", ours + "feed_forward.gate.weight"),
        Rule(theirs + "feed_forward.w2.weight", ours + "feed_forward.down.weight"),
        Rule(theirs + "feed_forward.w3.weight", ours + "feed_forward.up.weight"),
    ]
    rules = [
        Rule("tok_embeddings.weight", "embedding.weight"),
        *each_layer(range(config.n_layers), block),
        Rule("norm.weight", "norm.weight"),
        Rule("output.weight", "output.weight"),
    ]
    repeats = (("output.weight", "tok_embeddings.weight"),) if config.tie_embeddings else ()
    return Table(rules, ignored=("rope.freqs",), repeats=repeats)


def bands(config: Config) -> dict[str, tuple[int, ...]]:
    """No tensor is several matrices in one."""
    return {}


def write_config(config: Config) -> dict[str, Any]:
    """The params.json of a model."""
    for name, setting in (("attention_bias", config.attention_bias), ("mlp_bias", config.mlp_bias)):
        if setting:
            raise LuthierError(f"Meta's format has no place for {name}: write the model as hf or gguf")
    multiple_of = multiple_in(config.hidden_dim)
    multiplier = multiplier_for(config.hidden_dim, 4 * config.dim, multiple_of)
    return {
        "dim": config.dim,
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        "n_kv_heads": config.n_kv_heads,
        "vocab_size": config.vocab_size,
        **({} if multiplier is None else {"ffn_dim_multiplier": multiplier}),
        "multiple_of": multiple_of,
        "norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        **write_scaling(config.rope_scaling),
        OURS: {
            "context_length": config.context_length,
            "head_dim": config.head_dim or config.dim // config.n_heads,
            "tie_embeddings": config.tie_embeddings,
            "dropout": config.dropout,
            **our_scaling(config.rope_scaling),
        },
    }


def read_config(params: Mapping[str, Any], *, vocab_size: int, tied: bool) -> Config:
    """The Config of a params.json.

    vocab_size: of the embedding; Llama 2 writes -1. tied: whether the embedding is also the output matrix, by their
    numbers: Meta's files have both, also of models that have one.
    """
    settings = settings_of(params)
    ours = settings.section(OURS)
    said = settings.finite("vocab_size", -1)
    if said not in (-1, vocab_size):
        raise LuthierError(f"params.json: 'vocab_size' is {said}, and the embedding has {vocab_size} entries")
    dim, n_heads = settings.count("dim"), settings.count("n_heads")
    n_layers = settings.count("n_layers", most=LARGEST_DEPTH)
    width = swiglu_width(
        4 * dim, settings.number("ffn_dim_multiplier", 1.0), settings.count("multiple_of", 256, most=LARGEST_MULTIPLE)
    )
    theta = settings.number("rope_theta", 10_000.0)
    scaling = read_scaling(settings, factor=32.0 if (dim, n_layers) in LLAMA32 else 8.0, high=4.0)
    settings.pass_over("max_batch_size", "max_seq_len")
    published = {10_000.0: 4096, 500_000.0: 8192}.get(theta, 16_384)  # Llama 2, Llama 3, Code Llama
    config = Config(
        vocab_size=vocab_size,
        context_length=ours.count("context_length", published if scaling is None else 131_072, most=LARGEST_CONTEXT),
        dim=dim,
        hidden_dim=ours.count("hidden_dim", width),  # ours never says it: this holds the width within bounds
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=settings.count("n_kv_heads", n_heads),
        head_dim=ours.head_dim(dim, n_heads),
        norm_eps=settings.number("norm_eps", 1e-5),
        rope_theta=theta,
        rope_scaling=scaling,
        tie_embeddings=ours.flag("tie_embeddings", tied),
        dropout=ours.share("dropout", 0.0),
    )
    settings.mention_others()
    return config
