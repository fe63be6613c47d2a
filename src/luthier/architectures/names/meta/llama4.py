"""What Llama 4's weights and settings are called in Meta's folders.

Shapes: D dim, F hidden_dim of an expert, E experts. In Meta's names capitals say the same: "eD_F" is (E * D, F).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.architectures.llama4 import Config
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
from luthier.architectures.names.settings import LARGEST_CONTEXT, LARGEST_DEPTH, LARGEST_EXPERTS, ConfigJson
from luthier.formats.names import Join, PairsToHalves, Reshape, Rule, Split, Table, Transpose, each_layer

MARKS = ("moe_args", "nope_layer_interval", "attention_chunk_size", "use_qk_norm", "ffn_exp")  # only Llama 4 has them


def is_llama4(params: Mapping[str, Any]) -> bool:
    """Whether a params.json is one of Llama 4."""
    return any(mark in settings_of(params).values for mark in MARKS)


def table(config: Config) -> Table:
    """Names of Meta's Transformer, as in the published files: several matrices in one, norms beside what they feed.

    Rotary pairs are neighbours there. Layers without positions are turned about like the others: scores do not change
    when queries and keys are permuted alike.
    """
    ours, theirs = "blocks.{layer}.", "layers.{layer}."
    qkv = tuple(f"{ours}attention.{part}.weight" for part in ("query", "key", "value"))
    block = [
        Rule(theirs + "attention.wqkv.layer_norm_weight", ours + "attention_norm.weight"),
        Rule(
            theirs + "attention.wqkv.weight",
            qkv,
            Split(qkv_rows(config)),
            PairsToHalves((config.n_heads, config.n_kv_heads, None)),
        ),
        Rule(theirs + "attention.wo.weight", ours + "attention.output.weight"),
    ]
    gate_up = (ours + "feed_forward.gate.weight", ours + "feed_forward.up.weight")
    dense = [
        Rule(theirs + "feed_forward.mlp.layer_norm_weight", ours + "feed_forward_norm.weight"),
        Rule(theirs + "feed_forward.mlp.fc1_weight", gate_up, Split((config.dense_hidden_dim,) * 2)),
        Rule(theirs + "feed_forward.mlp.fc2_weight", ours + "feed_forward.down.weight"),
    ]
    n, dim, hidden = config.n_experts, config.dim, config.hidden_dim
    into = (theirs + "feed_forward.experts.moe_w_in_eD_F", theirs + "feed_forward.experts.moe_w_swiglu_eD_F")
    mixture = [
        Rule(theirs + "feed_forward.norm.weight", ours + "feed_forward_norm.weight"),
        Rule(theirs + "feed_forward.router_DE", ours + "feed_forward.router.weight", Transpose()),
        Rule(
            into,
            ours + "feed_forward.experts.gate_up",
            Reshape((n * dim, hidden), (n, dim, hidden)),
            Join((hidden, hidden), dim=2),
        ),
        Rule(
            theirs + "feed_forward.experts.moe_w_out_eF_D",
            ours + "feed_forward.experts.down",
            Reshape((n * hidden, dim), (n, hidden, dim)),
        ),
        Rule(theirs + "feed_forward.w_in_shared_FD.weight", ours + "feed_forward.shared.gate.weight"),
        Rule(theirs + "feed_forward.w_swiglu_FD.weight", ours + "feed_forward.shared.up.weight"),
        Rule(theirs + "feed_forward.w_out_shared_DF.weight", ours + "feed_forward.shared.down.weight"),
    ]
    rules = [Rule("tok_embeddings.weight", "embedding.weight")]
    for layer in range(config.n_layers):
        rules += each_layer([layer], block + (mixture if config.is_moe(layer) else dense))
    rules += [Rule("norm.weight", "norm.weight"), Rule("output.weight", "output.weight")]
    ignored = (
        "rope.freqs",
        "*._extra_state",
        "*.feed_forward.global_gate_stats_3E",
        "*.feed_forward.running_gate_stats_3E",
        "*.feed_forward.expert_activation_DE",
        "vision_embeddings.*",
        "vision_projection.*",
    )
    repeats = (("output.weight", "tok_embeddings.weight"),) if config.tie_embeddings else ()
    return Table(rules, ignored=ignored, repeats=repeats)


def qkv_rows(config: Config) -> tuple[int, int, int]:
    """The rows of queries, keys and values in their common matrix."""
    head_dim = config.head_dim or config.dim // config.n_heads
    return config.n_heads * head_dim, config.n_kv_heads * head_dim, config.n_kv_heads * head_dim


def bands(config: Config) -> dict[str, tuple[int, ...]]:
    """The tensors that are several matrices, one under the other, each cut by itself when the model is sharded."""
    found: dict[str, tuple[int, ...]] = {}
    for layer in range(config.n_layers):
        found[f"layers.{layer}.attention.wqkv.weight"] = qkv_rows(config)
        if config.is_moe(layer):
            found[f"layers.{layer}.feed_forward.experts.moe_w_out_eF_D"] = (config.hidden_dim,) * config.n_experts
        else:
            found[f"layers.{layer}.feed_forward.mlp.fc1_weight"] = (config.dense_hidden_dim,) * 2
    return found


def write_config(config: Config) -> dict[str, Any]:
    """The params.json of a model."""
    multiple_of = multiple_in(config.dense_hidden_dim, config.hidden_dim)
    multiplier = multiplier_for(config.dense_hidden_dim, 4 * config.dim, multiple_of) or 1.0
    expansion = expansion_for(config.hidden_dim, config.dim, multiplier, multiple_of)
    # the width of the experts is reckoned with the multiplier of the dense layers; where no expansion leads to it,
    # Meta's programs cannot make the model, and only we read it back
    expert_width = {} if expansion is not None else {"hidden_dim": config.hidden_dim}
    return {
        "dim": config.dim,
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        "n_kv_heads": config.n_kv_heads,
        "vocab_size": config.vocab_size,
        "ffn_dim_multiplier": multiplier,
        "ffn_exp": expansion or 4.0,
        "multiple_of": multiple_of,
        "norm_eps": config.norm_eps,
        "attention_chunk_size": config.attention_chunk,
        "rope_theta": config.rope_theta,
        **write_scaling(config.rope_scaling),
        "nope_layer_interval": config.global_every,
        "use_qk_norm": config.qk_norm,
        "attn_temperature_tuning": config.temperature_tuning,
        "floor_scale": config.temperature_floor,
        "attn_scale": config.temperature_scale,
        "moe_args": {
            "num_experts": config.n_experts,
            "capacity_factor": 1.0,
            "auto_scale_F": False,
            "top_k": config.experts_per_token,
            "interleave_moe_layer_step": config.moe_every,
        },
        OURS: {
            "context_length": config.context_length,
            "head_dim": config.head_dim or config.dim // config.n_heads,
            **expert_width,
            "moe_layers": None if config.moe_layers is None else list(config.moe_layers),
            "global_layers": None if config.global_layers is None else list(config.global_layers),
            "tie_embeddings": config.tie_embeddings,
            "dropout": config.dropout,
            **our_scaling(config.rope_scaling),
        },
    }


def expansion_for(hidden_dim: int, dim: int, multiplier: float, multiple_of: int) -> float | None:
    """The `ffn_exp` by which dim grows to this width of an expert; None where rounding lets none do so."""
    near = round(1.5 * hidden_dim / multiplier)  # ffn_exp * dim
    steps = sorted((half / 2 for half in range(-8, 9)), key=abs)
    for expansion in ((near + step) / dim for step in steps):
        if swiglu_width(int(expansion * dim), multiplier, multiple_of) == hidden_dim:
            return expansion
    return None


def read_config(params: Mapping[str, Any], *, vocab_size: int, tied: bool) -> Config:
    """The Config of a params.json.

    vocab_size: of the embedding; in sharded models the file says how large a part is. tied: whether the embedding is
    also the output matrix, by their numbers.
    """
    settings = settings_of(params)
    ours, mixture = settings.section(OURS), settings.section("moe_args")
    dim, n_heads = settings.count("dim"), settings.count("n_heads")
    n_experts = mixture.count("num_experts", 1, most=LARGEST_EXPERTS)
    published = 10_485_760 if n_experts == 16 else 1_048_576
    context = ours.count("context_length", published, most=LARGEST_CONTEXT)
    dense_width, expert_width = read_widths(settings, mixture, dim)
    config = Config(
        vocab_size=vocab_size,
        context_length=context,
        dim=dim,
        hidden_dim=ours.count("hidden_dim", expert_width),
        dense_hidden_dim=ours.count("dense_hidden_dim", dense_width),
        n_layers=settings.count("n_layers", most=LARGEST_DEPTH),
        n_heads=n_heads,
        n_kv_heads=settings.count("n_kv_heads", n_heads),
        head_dim=ours.head_dim(dim, n_heads),
        n_experts=n_experts,
        experts_per_token=mixture.count("top_k", 1),
        moe_every=mixture.count("interleave_moe_layer_step", 1),
        moe_layers=layers_in(ours, "moe_layers", never="moe_args" not in settings.values),
        global_every=settings.count("nope_layer_interval", 4),
        global_layers=layers_in(ours, "global_layers", never="nope_layer_interval" not in settings.values),
        attention_chunk=settings.count("attention_chunk_size", context, most=LARGEST_CONTEXT),
        qk_norm=settings.flag("use_qk_norm", False),
        temperature_tuning=settings.flag("attn_temperature_tuning", False),
        temperature_floor=settings.count("floor_scale", 8192, most=LARGEST_CONTEXT),
        temperature_scale=settings.number("attn_scale", 0.1),
        norm_eps=settings.number("norm_eps", 1e-5),
        rope_theta=settings.number("rope_theta", 500_000.0),
        rope_scaling=read_scaling(settings, factor=16.0, high=1.0),
        tie_embeddings=ours.flag("tie_embeddings", tied),
        dropout=ours.share("dropout", 0.0),
    )
    settings.pass_over("max_batch_size", "max_seq_len", "vision_args", "vocab_size", "head_dim")
    settings.mention_others()
    return config


def read_widths(settings: ConfigJson, mixture: ConfigJson, dim: int) -> tuple[int, int]:
    """(width of dense layers, width of an expert). Experts may be made narrower for the shared one beside them."""
    multiplier = settings.number("ffn_dim_multiplier", 1.0)
    multiple_of = settings.count("multiple_of", 256, most=LARGEST_MULTIPLE)
    narrower = mixture.flag("auto_scale_F", True)
    share = mixture.number("capacity_factor", 1.0) + 1 if narrower else 1.0
    expanded = int(settings.number("ffn_exp", 4.0) * dim)
    dense = swiglu_width(4 * dim, multiplier, multiple_of)
    return dense, swiglu_width(expanded, multiplier, multiple_of, share=share)


def layers_in(ours: ConfigJson, name: str, *, never: bool) -> tuple[int, ...] | None:
    """The layers of a kind, where no step says it. never: there are none, unless our part of the file lists some."""
    listed = ours.numbers(name)
    if listed is None:
        return () if never else None
    return tuple(listed)
