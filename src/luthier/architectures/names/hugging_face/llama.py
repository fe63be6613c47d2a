"""What Llama's weights and settings are called in Hugging Face folders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.architectures.llama import Config
from luthier.architectures.names.hugging_face.config_json import (
    WRAPPERS,
    mention_others,
    read_context,
    read_rope,
    write_rope,
)
from luthier.architectures.names.settings import LARGEST_CONTEXT, LARGEST_DEPTH, ConfigJson
from luthier.formats.names import Rule, Table, each_layer

CLASSES = {"LlamaForCausalLM": "llama", "LlamaModel": "llama", "LLaMAForCausalLM": "llama"}  # class -> model_type

PREFIXES = ("model.", *WRAPPERS)


def table(config: Config) -> Table:
    """Names of LlamaForCausalLM. Its rotary pairs lie in halves, as ours: nothing is moved."""
    ours, theirs = "blocks.{layer}.", "model.layers.{layer}."
    attention = ["weight", *["bias"] * config.attention_bias]
    hidden = ["weight", *["bias"] * config.mlp_bias]
    block = [
        Rule(theirs + "input_layernorm.weight", ours + "attention_norm.weight"),
        *(
            Rule(f"{theirs}self_attn.{a}_proj.{what}", f"{ours}attention.{b}.{what}")
            for a, b in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "output"))
            for what in attention
        ),
        Rule(theirs + "post_attention_layernorm.weight", ours + "feed_forward_norm.weight"),
        *(
            Rule(f"{theirs}mlp.{part}_proj.{what}", f"{ours}feed_forward.{part}.{what}")
            for part in ("gate", "up", "down")
            for what in hidden
        ),
    ]
    rules = [
        Rule("model.embed_tokens.weight", "embedding.weight"),
        *each_layer(range(config.n_layers), block),
        Rule("model.norm.weight", "norm.weight"),
    ]
    ignored = ("*rotary_emb.inv_freq",)  # in files of old
    if config.tie_embeddings:
        return Table(rules, PREFIXES, ignored, (("lm_head.weight", "model.embed_tokens.weight"),))
    return Table([*rules, Rule("lm_head.weight", "output.weight")], PREFIXES, ignored)


def write_config(config: Config) -> dict[str, Any]:
    """The config.json of a LlamaForCausalLM."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "intermediate_size": config.hidden_dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim or config.dim // config.n_heads,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        **write_rope(config.rope_theta, config.rope_scaling, config.context_length),
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "attention_dropout": config.dropout,
        "tie_word_embeddings": config.tie_embeddings,
    }


def read_config(values: Mapping[str, Any]) -> Config:
    """The Config of a config.json. What is missing means what it does in transformers' LlamaConfig."""
    settings = ConfigJson(values)
    settings.only("hidden_act", "silu", "swish")
    settings.only("rope_interleaved", False)
    dim, n_heads = settings.count("hidden_size"), settings.count("num_attention_heads")
    context = settings.count("max_position_embeddings", 2048, most=LARGEST_CONTEXT)
    theta, scaling = read_rope(settings, theta=10_000.0, context=context)
    config = Config(
        vocab_size=settings.count("vocab_size"),
        context_length=read_context(settings, context, scaling),
        dim=dim,
        hidden_dim=settings.count("intermediate_size"),
        n_layers=settings.count("num_hidden_layers", most=LARGEST_DEPTH),
        n_heads=n_heads,
        n_kv_heads=settings.count("num_key_value_heads", n_heads),
        head_dim=settings.head_dim(dim, n_heads),
        norm_eps=settings.number("rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        tie_embeddings=settings.flag("tie_word_embeddings", False),
        dropout=settings.share("attention_dropout", 0.0),
        attention_bias=settings.flag("attention_bias", False),
        mlp_bias=settings.flag("mlp_bias", False),
    )
    mention_others(settings)
    return config
