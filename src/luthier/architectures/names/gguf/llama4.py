"""What Llama 4's weights and settings are called in GGUF files.

llama.cpp itself has no setting for four things: chunks and temperature always take 8192 tokens there, every 4th layer
is global, and queries and keys have unit norm unless there are 128 experts. Files say otherwise for us alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.architectures.llama4 import Config
from luthier.architectures.names.gguf.metadata import (
    EMBEDDING,
    OUTPUT,
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
from luthier.architectures.names.settings import LARGEST_CONTEXT, LARGEST_DEPTH, LARGEST_EXPERTS, ConfigJson
from luthier.errors import LuthierError
from luthier.formats.names import Checkpoint, Join, PairsToHalves, Rule, Table, Transpose, each_layer

# what llama.cpp takes, whatever the file says
CHUNK = 8192  # tokens, of local attention and of the temperature's steps
TEMPERATURE_SCALE = 0.1
GLOBAL_EVERY = 4
ROPE_KINDS = ("none", "linear", "yarn")
MAVERICK_EXPERTS = 128  # with as many, queries and keys have no norm


def table(config: Config) -> Table:
    """Names of llama.cpp's llama4. Rotary pairs are neighbours; each expert's matrices are (out, in)."""
    ours, theirs = "blocks.{layer}.", "blk.{layer}."
    block = [
        Rule(theirs + "attn_norm.weight", ours + "attention_norm.weight"),
        Rule(theirs + "attn_q.weight", ours + "attention.query.weight", PairsToHalves((config.n_heads,))),
        Rule(theirs + "attn_k.weight", ours + "attention.key.weight", PairsToHalves((config.n_kv_heads,))),
        Rule(theirs + "attn_v.weight", ours + "attention.value.weight"),
        Rule(theirs + "attn_output.weight", ours + "attention.output.weight"),
        Rule(theirs + "ffn_norm.weight", ours + "feed_forward_norm.weight"),
    ]
    parts = ("gate", "up", "down")
    dense = [Rule(f"{theirs}ffn_{part}.weight", f"{ours}feed_forward.{part}.weight") for part in parts]
    both = (theirs + "ffn_gate_exps.weight", theirs + "ffn_up_exps.weight")  # (E, F, C) each
    experts = ours + "feed_forward.experts."
    mixture = [
        Rule(theirs + "ffn_gate_inp.weight", ours + "feed_forward.router.weight"),
        Rule(both, experts + "gate_up", Transpose(), Join((config.hidden_dim,) * 2, dim=2)),
        Rule(theirs + "ffn_down_exps.weight", experts + "down", Transpose()),
    ] + [Rule(f"{theirs}ffn_{part}_shexp.weight", f"{ours}feed_forward.shared.{part}.weight") for part in parts]
    head_dim = config.head_dim or config.dim // config.n_heads
    rules = [Rule(EMBEDDING, "embedding.weight"), *rope_rules(head_dim, config.rope_theta, config.rope_scaling)]
    for layer in range(config.n_layers):
        rules += each_layer([layer], block + (mixture if config.is_moe(layer) else dense))
    rules.append(Rule("output_norm.weight", "norm.weight"))
    if not config.tie_embeddings:
        rules.append(Rule(OUTPUT, "output.weight"))
    return Table(rules, ignored=("rope_freqs.weight",))  # where its factors are all 1


def write_config(config: Config) -> dict[str, Any]:
    """The settings of a file."""
    head_dim = config.head_dim or config.dim // config.n_heads
    layers = {"luthier.moe_layers": config.moe_layers, "luthier.global_layers": config.global_layers}
    return {
        "general.architecture": "llama4",
        "llama4.vocab_size": config.vocab_size,
        "llama4.context_length": config.context_length,
        "llama4.embedding_length": config.dim,
        "llama4.feed_forward_length": config.dense_hidden_dim,
        "llama4.expert_feed_forward_length": config.hidden_dim,
        "llama4.block_count": config.n_layers,
        **write_heads("llama4", config.n_heads, config.n_kv_heads, head_dim),
        "llama4.expert_count": config.n_experts,
        "llama4.expert_used_count": config.experts_per_token,
        "llama4.interleave_moe_layer_step": config.moe_every,
        "llama4.attention.sliding_window": config.attention_chunk,
        "llama4.attention.sliding_window_pattern": config.global_every,
        "llama4.attention.temperature_length": config.temperature_floor,
        "llama4.attention.temperature_scale": config.temperature_scale,
        "llama4.attention.layer_norm_rms_epsilon": config.norm_eps,
        **write_rope("llama4", config.rope_theta, config.rope_scaling, ROPE_KINDS),
        "luthier.qk_norm": config.qk_norm,
        "luthier.temperature_tuning": config.temperature_tuning,
        "luthier.dropout": config.dropout,
        **{name: ",".join(map(str, numbers)) for name, numbers in layers.items() if numbers is not None},
    }


def read_config(values: Mapping[str, Any], checkpoint: Checkpoint) -> Config:
    """The Config of a file. What is missing means what it does in llama.cpp."""
    settings = ConfigJson(values, "the settings")
    dim, n_heads = settings.count("llama4.embedding_length"), settings.count("llama4.attention.head_count")
    n_experts = settings.count("llama4.expert_count", most=LARGEST_EXPERTS)
    head_dim = read_head_dim(settings, "llama4", dim, n_heads)
    context = settings.count("llama4.context_length", most=LARGEST_CONTEXT)
    theta, scaling = read_rope(
        settings, "llama4", head_dim or dim // n_heads, checkpoint, context=context, kinds=ROPE_KINDS
    )
    config = Config(
        vocab_size=read_vocab_size(checkpoint),
        context_length=context,
        dim=dim,
        hidden_dim=settings.count("llama4.expert_feed_forward_length"),
        dense_hidden_dim=settings.count("llama4.feed_forward_length"),
        n_layers=read_depth(settings, "llama4", checkpoint),
        n_heads=n_heads,
        n_kv_heads=settings.count("llama4.attention.head_count_kv", n_heads),
        head_dim=head_dim,
        n_experts=n_experts,
        experts_per_token=settings.count("llama4.expert_used_count"),
        moe_every=settings.count("llama4.interleave_moe_layer_step"),
        moe_layers=read_layers(settings, "luthier.moe_layers"),
        global_every=settings.count("llama4.attention.sliding_window_pattern", GLOBAL_EVERY),
        global_layers=read_layers(settings, "luthier.global_layers"),
        attention_chunk=settings.count("llama4.attention.sliding_window", CHUNK),
        qk_norm=settings.flag("luthier.qk_norm", n_experts != MAVERICK_EXPERTS),
        temperature_tuning=settings.flag("luthier.temperature_tuning", True),
        temperature_floor=settings.count("llama4.attention.temperature_length", CHUNK, most=LARGEST_CONTEXT),
        temperature_scale=settings.number("llama4.attention.temperature_scale", TEMPERATURE_SCALE),
        norm_eps=settings.number("llama4.attention.layer_norm_rms_epsilon"),
        rope_theta=theta,
        rope_scaling=scaling,
        tie_embeddings=is_tied(checkpoint),
        dropout=settings.share("luthier.dropout", 0.0),
    )
    mention_others(settings, "llama4")
    return config


def read_layers(settings: ConfigJson, name: str) -> tuple[int, ...] | None:
    """Numbers of layers, with commas between: an empty array could not be written."""
    text = settings.values.get(name)
    if text is None:
        return None
    numbers = str(text).split(",") if text != "" else []
    if len(numbers) > LARGEST_DEPTH or not all(number.isdecimal() and len(number) < 5 for number in numbers):
        raise LuthierError(f"the settings: '{name}' must be numbers of layers with commas between, it is {text!r:.60}")
    return tuple(map(int, numbers))


def cautions(config: Config) -> list[str]:
    """What llama.cpp would compute in another way than the model does, in words for people."""
    layers = range(config.n_layers)
    found = []
    if any(config.is_moe(layer) != ((layer + 1) % config.moe_every == 0) for layer in layers):
        found.append("llama.cpp cannot open it: its experts are not on every n-th layer")
    if any(config.is_global(layer) != ((layer + 1) % GLOBAL_EVERY == 0) for layer in layers):
        found.append("llama.cpp takes every 4th layer as global, this model has others")
    if config.qk_norm != (config.n_experts != MAVERICK_EXPERTS):
        found.append("llama.cpp norms queries and keys unless there are 128 experts, this model is the other way")
    shorter = min(config.attention_chunk, CHUNK)
    if config.attention_chunk != CHUNK and config.context_length > shorter:
        found.append(
            f"llama.cpp attends in chunks of {CHUNK} tokens, not {config.attention_chunk}: it differs after {shorter}"
        )
    step = min(config.temperature_floor, CHUNK) if config.temperature_tuning else CHUNK
    ours = (config.temperature_tuning, config.temperature_floor, config.temperature_scale)
    if ours != (True, CHUNK, TEMPERATURE_SCALE) and config.context_length >= step:
        found.append(f"llama.cpp has another temperature of queries: it differs after {step} tokens")
    return found
