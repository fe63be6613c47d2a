"""What Llama 4's weights and settings are called in Hugging Face folders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.architectures.llama4 import Config
from luthier.architectures.names.hugging_face.config_json import (
    WRAPPERS,
    mention_others,
    read_context,
    read_rope,
    write_rope,
)
from luthier.architectures.names.settings import LARGEST_CONTEXT, LARGEST_DEPTH, LARGEST_EXPERTS, ConfigJson
from luthier.errors import LuthierError
from luthier.formats.names import PairsToHalves, Rule, Table, each_layer

# class -> model_type; of the multimodal model we take the text part
CLASSES = {"Llama4ForCausalLM": "llama4_text", "Llama4ForConditionalGeneration": "llama4"}

TRAINING = ("router_aux_loss_coef", "router_jitter_noise", "output_router_logits", "for_llm_compressor")


def table(config: Config) -> Table:
    """Names of Llama4ForCausalLM, and the text part of its multimodal files.

    Rotary pairs are neighbours there. Layers without positions are turned about like the others: scores do not change
    when queries and keys are permuted alike.
    """
    ours, theirs = "blocks.{layer}.", "model.layers.{layer}."
    block = [
        Rule(theirs + "input_layernorm.weight", ours + "attention_norm.weight"),
        Rule(theirs + "self_attn.q_proj.weight", ours + "attention.query.weight", PairsToHalves((config.n_heads,))),
        Rule(theirs + "self_attn.k_proj.weight", ours + "attention.key.weight", PairsToHalves((config.n_kv_heads,))),
        Rule(theirs + "self_attn.v_proj.weight", ours + "attention.value.weight"),
        Rule(theirs + "self_attn.o_proj.weight", ours + "attention.output.weight"),
        Rule(theirs + "post_attention_layernorm.weight", ours + "feed_forward_norm.weight"),
    ]
    parts = ("gate", "up", "down")
    dense = [Rule(f"{theirs}feed_forward.{part}_proj.weight", f"{ours}feed_forward.{part}.weight") for part in parts]
    mixture = [
        Rule(theirs + "feed_forward.router.weight", ours + "feed_forward.router.weight"),
        Rule(theirs + "feed_forward.experts.gate_up_proj", ours + "feed_forward.experts.gate_up"),
        Rule(theirs + "feed_forward.experts.down_proj", ours + "feed_forward.experts.down"),
    ] + [
        Rule(f"{theirs}feed_forward.shared_expert.{part}_proj.weight", f"{ours}feed_forward.shared.{part}.weight")
        for part in parts
    ]
    rules = [Rule("model.embed_tokens.weight", "embedding.weight")]
    for layer in range(config.n_layers):
        rules += each_layer([layer], block + (mixture if config.is_moe(layer) else dense))
    rules += [Rule("model.norm.weight", "norm.weight")]
    prefixes = ("language_model.", "model.", *WRAPPERS)
    ignored = ("vision_model.*", "multi_modal_projector.*", "*rotary_emb.inv_freq")
    if config.tie_embeddings:
        return Table(rules, prefixes, ignored, (("lm_head.weight", "model.embed_tokens.weight"),))
    return Table([*rules, Rule("lm_head.weight", "output.weight")], prefixes, ignored)


def write_config(config: Config) -> dict[str, Any]:
    """The config.json of a Llama4ForCausalLM."""
    layers = range(config.n_layers)
    return {
        "architectures": ["Llama4ForCausalLM"],
        "model_type": "llama4_text",
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "intermediate_size": config.hidden_dim,
        "intermediate_size_mlp": config.dense_hidden_dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim or config.dim // config.n_heads,
        "num_local_experts": config.n_experts,
        "num_experts_per_tok": config.experts_per_token,
        "interleave_moe_layer_step": config.moe_every,
        "moe_layers": [layer for layer in layers if config.is_moe(layer)],
        "no_rope_layers": [int(not config.is_global(layer)) for layer in layers],  # 1: has rotary positions
        "no_rope_layer_interval": config.global_every,
        "attention_chunk_size": config.attention_chunk,
        "use_qk_norm": config.qk_norm,
        "attn_temperature_tuning": config.temperature_tuning,
        "floor_scale": config.temperature_floor,
        "attn_scale": config.temperature_scale,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        **write_rope(config.rope_theta, config.rope_scaling, config.context_length),
        "attention_bias": False,
        "attention_dropout": config.dropout,
        "tie_word_embeddings": config.tie_embeddings,
    }


def read_config(values: Mapping[str, Any]) -> Config:
    """The Config of a config.json, or of its text part. What is missing means what it does in Llama4TextConfig."""
    settings = ConfigJson(values)
    if "text_config" in settings.values:
        settings = settings.section("text_config")
    settings.only("hidden_act", "silu", "swish")
    settings.only("attention_bias", False)
    dim, n_heads = settings.count("hidden_size", 5120), settings.count("num_attention_heads", 40)
    n_layers = settings.count("num_hidden_layers", 48, most=LARGEST_DEPTH)
    moe_every, moe_layers = read_moe_layers(settings, n_layers)
    global_every, global_layers = read_global_layers(settings, n_layers)
    context = settings.count("max_position_embeddings", 131_072, most=LARGEST_CONTEXT)
    theta, scaling = read_rope(settings, theta=500_000.0, context=context)
    config = Config(
        vocab_size=settings.count("vocab_size", 202_048),
        context_length=read_context(settings, context, scaling),
        dim=dim,
        hidden_dim=settings.count("intermediate_size", 8192),
        dense_hidden_dim=settings.count("intermediate_size_mlp", 16_384),
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=settings.count("num_key_value_heads", 8),
        head_dim=settings.head_dim(dim, n_heads, default=128),
        n_experts=settings.count("num_local_experts", 16, most=LARGEST_EXPERTS),
        experts_per_token=settings.count("num_experts_per_tok", 1),
        moe_every=moe_every,
        moe_layers=moe_layers,
        global_every=global_every,
        global_layers=global_layers,
        attention_chunk=settings.count("attention_chunk_size", 8192),
        qk_norm=settings.flag("use_qk_norm", True),
        temperature_tuning=settings.flag("attn_temperature_tuning", True),
        temperature_floor=settings.count("floor_scale", 8192, most=LARGEST_CONTEXT),
        temperature_scale=settings.number("attn_scale", 0.1),
        norm_eps=settings.number("rms_norm_eps", 1e-5),
        rope_theta=theta,
        rope_scaling=scaling,
        tie_embeddings=settings.flag("tie_word_embeddings", False),
        dropout=settings.share("attention_dropout", 0.0),
    )
    mention_others(settings, *TRAINING)
    return config


def read_moe_layers(settings: ConfigJson, n_layers: int) -> tuple[int, tuple[int, ...] | None]:
    """(moe_every, moe_layers): the list only where the step does not say the same."""
    step = settings.count("interleave_moe_layer_step", 1)
    by_step = tuple(range(step - 1, n_layers, step))
    listed = settings.numbers("moe_layers")
    layers = by_step if listed is None else tuple(sorted(set(range(n_layers)).intersection(listed)))
    return step, None if layers == by_step else layers


def read_global_layers(settings: ConfigJson, n_layers: int) -> tuple[int, tuple[int, ...] | None]:
    """(global_every, global_layers). In `no_rope_layers` a 1 means rotary positions; empty means: derive it."""
    step = settings.count("no_rope_layer_interval", 4)
    rotary = settings.numbers("no_rope_layers") or [int((layer + 1) % step != 0) for layer in range(n_layers)]
    if len(rotary) < n_layers:
        raise LuthierError(f"config.json: 'no_rope_layers' names {len(rotary)} layers of {n_layers}")
    layers = tuple(layer for layer in range(n_layers) if not rotary[layer])
    kinds = ["full_attention" if layer in layers else "chunked_attention" for layer in range(n_layers)]
    settings.only("layer_types", kinds)
    return step, None if layers == tuple(range(step - 1, n_layers, step)) else layers
