"""DeepSeek-V2 (arXiv 2405.04434) and DeepSeek-V3 (arXiv 2412.19437): latent attention, and many narrow experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from luthier.architectures import config_json, gguf_metadata, llama_like_names
from luthier.architectures.checked_values import LARGEST_CONTEXT, LARGEST_DEPTH, LARGEST_EXPERTS
from luthier.architectures.family import Family, FormatSpec
from luthier.architectures.initialize import empty_embedding, initialize_normal
from luthier.architectures.llama_like_names import BLOCK, GGUF, HUGGING_FACE
from luthier.architectures.settings import (
    CustomSetting,
    Fixed,
    Ignored,
    OptionalSetting,
    Reading,
    Setting,
    SettingList,
    count,
    flag,
    positive,
    probability,
)
from luthier.errors import LuthierError
from luthier.formats.weight_table import PairsToHalves, Reshape, Rule, SplitByHead, Table, Transpose, each_layer
from luthier.model.experts import Experts
from luthier.model.feed_forward import SwiGLU
from luthier.model.latent_attention import EPS, LatentAttention
from luthier.model.moe import MoE
from luthier.model.norm import RMSNorm
from luthier.model.rope import Rope
from luthier.model.rope_scaling import RopeScaling, yarn_magnitude
from luthier.model.router import GroupedSigmoidRouter, GroupedSoftmaxRouter
from luthier.model.transformer import Block, Transformer


@dataclass(frozen=True)
class Config:
    """Configuration of a DeepSeek model. The defaults are V2-Lite."""

    vocab_size: int = 102_400
    """Entries of the vocabulary."""
    context_length: int = 163_840
    """Tokens."""
    dim: int = 2048
    """Width of the residual stream."""
    hidden_dim: int = 1408
    """Width of each expert."""
    dense_hidden_dim: int = 10_944
    """Width of the feed-forward on layers without experts."""
    n_layers: int = 27
    """Blocks."""
    n_heads: int = 16
    """Heads."""
    query_rank: int | None = None
    """Rank of the query projection; full unless given."""
    latent_rank: int = 512
    """Rank of the latent from which the keys and values of all heads are computed."""
    nope_dim: int = 128
    """Dimensions of a head's queries and keys without positions."""
    rope_dim: int = 64
    """Dimensions of a head's queries with rotary positions; that part of the key is common to all heads."""
    value_dim: int = 128
    """Dimensions of a head's values."""
    n_experts: int = 64
    """Experts of an MoE layer, besides the shared ones."""
    experts_per_token: int = 6
    """Experts that each token is routed to, besides the shared ones."""
    n_shared_experts: int = 2
    """Shared experts, which process every token; computed as one wide expert."""
    n_groups: int = 1
    """Groups of experts, of which the best are chosen first."""
    groups_per_token: int = 1
    """Groups from which a token's experts are chosen."""
    n_dense_layers: int | None = 1
    """The first layers, which have no experts; none unless given."""
    sigmoid: bool = False
    """Experts are scored by a sigmoid and chosen with a bias (V3); else by a softmax (V2)."""
    normalize_weights: bool = False
    """The weights of the chosen experts sum to 1, before their scale (V3 alone)."""
    weight_scale: float = 1.0
    """Factor of the chosen experts' weights."""
    norm_eps: float = 1e-6
    """Added to the mean square in RMS norm."""
    rope_theta: float = 10_000.0
    """Base of the rotary wavelengths."""
    rope_scaling: RopeScaling | None = None
    """RoPE scaling for a context longer than the one trained on."""
    mscale_all_dim: float = 0.0
    """Of YaRN: scores are multiplied by (0.1 mscale_all_dim ln(factor) + 1) squared."""
    tie_embeddings: bool = False
    """Use the token embedding as the output matrix."""
    dropout: float = 0.0
    """Probability, in training only. DeepSeek itself uses none."""

    def is_moe(self, layer: int) -> bool:
        """Whether this layer, counted from 0, has experts."""
        return layer >= (self.n_dense_layers or 0)


def small_config(vocab_size: int, context_length: int, dim: int, n_layers: int, n_heads: int, n_experts: int) -> Config:
    """A DeepSeek-V3 small enough to train on a CPU: a latent of a third of dim, experts half as wide as the model."""
    return Config(
        vocab_size,
        context_length,
        dim,
        hidden_dim=dim // 2,
        dense_hidden_dim=8 * dim // 3 // 32 * 32,
        n_layers=n_layers,
        n_heads=n_heads,
        latent_rank=dim // 64 * 16 + 16,
        nope_dim=dim // n_heads,
        rope_dim=16,
        value_dim=dim // n_heads,
        n_experts=n_experts,
        experts_per_token=2,
        n_shared_experts=1,
        n_groups=2,
        sigmoid=True,
        groups_per_token=1,
        normalize_weights=True,
        tie_embeddings=True,
    )


# mscale and mscale_all_dim are equal in all published models: the attention factor is 1
YARN = RopeScaling(40.0, original_context_length=4096, kind="yarn", attention_factor=1.0)

SIZES = {
    "deepseek-v2-lite": Config(rope_scaling=YARN, mscale_all_dim=0.707),
    "deepseek-v2": Config(
        dim=5120, hidden_dim=1536, dense_hidden_dim=12_288, n_layers=60, n_heads=128, query_rank=1536, n_experts=160,
        n_groups=8, groups_per_token=3, weight_scale=16.0, rope_scaling=YARN, mscale_all_dim=0.707,
    ),
    "deepseek-v3": Config(
        129_280, dim=7168, hidden_dim=2048, dense_hidden_dim=18_432, n_layers=61, n_heads=128, query_rank=1536,
        n_experts=256, experts_per_token=8, n_shared_experts=1, n_groups=8, groups_per_token=4, n_dense_layers=3,
        sigmoid=True, normalize_weights=True, weight_scale=2.5, rope_scaling=YARN, mscale_all_dim=1.0,
    ),
    # small enough to train on a CPU; vocab_size is replaced by the tokenizer's
    "deepseek-nano": small_config(512, context_length=128, dim=128, n_layers=4, n_heads=4, n_experts=8),
    "deepseek-micro": small_config(2048, context_length=256, dim=192, n_layers=6, n_heads=6, n_experts=8),
    "deepseek-mini": small_config(4096, context_length=256, dim=256, n_layers=6, n_heads=8, n_experts=16),
}  # fmt: skip


def build(config: Config) -> Transformer:
    """The model, with uninitialized weights (see registry.build)."""
    return Transformer(
        empty_embedding(config.vocab_size, config.dim),
        [build_block(config, layer) for layer in range(config.n_layers)],
        RMSNorm(config.dim, config.norm_eps),
        tie_embeddings=config.tie_embeddings,
        dropout=config.dropout,
    )


def build_block(config: Config, layer: int) -> Block:
    """The block of a layer, counted from 0: experts, or one feed-forward."""
    scaling = config.rope_scaling
    of_scores = yarn_magnitude(scaling.factor, config.mscale_all_dim) if scaling and config.mscale_all_dim else 1.0
    attention = LatentAttention(
        config.dim,
        config.n_heads,
        query_rank=config.query_rank,
        rank=config.latent_rank,
        nope_dim=config.nope_dim,
        value_dim=config.value_dim,
        rope=Rope(config.rope_dim, config.rope_theta, scaling),
        scale=(config.nope_dim + config.rope_dim) ** -0.5 * of_scores**2,
        dropout=config.dropout,
    )
    return Block(
        RMSNorm(config.dim, config.norm_eps),
        attention,
        RMSNorm(config.dim, config.norm_eps),
        build_moe(config) if config.is_moe(layer) else SwiGLU(config.dim, config.dense_hidden_dim),
        dropout=config.dropout,
    )


def build_moe(config: Config) -> MoE:
    """Routed experts, and the shared experts as one wide expert."""
    sizes = config.dim, config.n_experts, config.experts_per_token
    groups = {"n_groups": config.n_groups, "groups_per_token": config.groups_per_token}
    router = (
        GroupedSigmoidRouter(*sizes, **groups, normalize=config.normalize_weights, scale=config.weight_scale)
        if config.sigmoid
        else GroupedSoftmaxRouter(*sizes, **groups, scale=config.weight_scale)
    )
    return MoE(
        router,
        Experts(config.n_experts, config.dim, config.hidden_dim),
        SwiGLU(config.dim, config.n_shared_experts * config.hidden_dim),
    )


def initialize(model: Transformer, config: Config, generator: torch.Generator) -> None:
    """N(0, 0.006) as in the papers, residual outputs divided by sqrt(2 n_layers); the router's balancing bias 0.

    Small models have N(0, 0.02): the papers' is for widths of 2048 and more.
    """
    std = 0.006 if config.dim >= 2048 else 0.02
    initialize_normal(model, generator, std=std, residual_scale=(2 * config.n_layers) ** -0.5)


def block_rules(config: Config, block: list[Rule], mixture: list[Rule], dense: list[Rule]) -> list[Rule]:
    """The rules of all layers: those of every block, and those of its MoE or dense feed-forward."""
    kinds = ((layer, mixture if config.is_moe(layer) else dense) for layer in range(config.n_layers))
    return [rule for layer, feed_forward in kinds for rule in each_layer([layer], block + feed_forward)]


ATTENTION = BLOCK + "attention."


def attention_rules(config: Config, names: Mapping[str, str]) -> list[Rule]:
    """Rules of latent attention without the key and value projections. names: external ones, by part. Rotary pairs
    are adjacent dimensions.
    """
    query = names["query" if config.query_rank is None else "query_up"]
    of_queries = PairsToHalves((config.n_heads,), rotated=config.rope_dim, begin=config.nope_dim)
    of_key = PairsToHalves((1,), rotated=config.rope_dim, begin=config.latent_rank)
    rules = [
        Rule(f"{query}.weight", ATTENTION + "query.weight", of_queries),
        Rule(f"{names['down']}.weight", ATTENTION + "down.weight", of_key),
        Rule(f"{names['latent_norm']}.weight", ATTENTION + "latent_norm.weight"),
        Rule(f"{names['output']}.weight", ATTENTION + "output.weight"),
    ]
    if config.query_rank is not None:
        rules += [
            Rule(f"{names['query_down']}.weight", ATTENTION + "query_down.weight"),
            Rule(f"{names['query_norm']}.weight", ATTENTION + "query_norm.weight"),
        ]
    return rules


def hugging_face_tensors(config: Config) -> Table:
    """Weight table of DeepseekV2ForCausalLM and DeepseekV3ForCausalLM."""
    external = HUGGING_FACE + "self_attn."
    parts = {
        "query": "q_proj", "query_up": "q_b_proj", "query_down": "q_a_proj", "query_norm": "q_a_layernorm",
        "down": "kv_a_proj_with_mqa", "latent_norm": "kv_a_layernorm", "output": "o_proj",
    }  # fmt: skip
    attention = [
        *attention_rules(config, {part: external + name for part, name in parts.items()}),
        Rule(
            external + "kv_b_proj.weight",
            (ATTENTION + "key.weight", ATTENTION + "value.weight"),
            SplitByHead(config.n_heads, (config.nope_dim, config.value_dim)),
        ),
    ]
    mixture = [
        Rule(HUGGING_FACE + "mlp.gate.weight", BLOCK + "feed_forward.router.weight"),
        *llama_like_names.hugging_face_experts(config.n_experts, config.hidden_dim, "mlp.experts"),
        *llama_like_names.hugging_face_feed_forward("mlp.shared_experts", "feed_forward.shared"),
    ]
    if config.sigmoid:
        bias = BLOCK + "feed_forward.router.balance"
        mixture.append(Rule(HUGGING_FACE + "mlp.gate.e_score_correction_bias", bias))
    dense = llama_like_names.hugging_face_feed_forward("mlp")
    layers = block_rules(config, llama_like_names.hugging_face_block(attention, []), mixture, dense)
    # multi-token prediction layers come after the last layer
    further = tuple(f"layers.{config.n_layers + n}.*" for n in range(4))
    return llama_like_names.hugging_face_table(layers, config.tie_embeddings, ignored=further)


V2, V3 = "deepseek_v2", "deepseek_v3"
CLASSES = {"DeepseekV2ForCausalLM": V2, "DeepseekV3ForCausalLM": V3}


def read_router(reading: Reading) -> Mapping[str, Any]:
    """Settings of the router, in which V2 and V3 differ, with their defaults."""
    values = reading.values
    named = values.value("architectures")
    kind = values.value("model_type") or CLASSES.get(named[0] if isinstance(named, list) and named else "", V2)
    if kind == V3:
        values.require_one_of("scoring_func", "sigmoid")
        values.require_one_of("topk_method", "noaux_tc")
        return {
            "sigmoid": True,
            "normalize_weights": values.flag("norm_topk_prob", True),
            "weight_scale": values.number("routed_scaling_factor", 2.5),
            "n_groups": values.count("n_group", 8),
            "groups_per_token": values.count("topk_group", 4),
        }
    values.require_one_of("scoring_func", "softmax")
    values.require_one_of("topk_method", "greedy", "group_limited_greedy")
    values.require_one_of("norm_topk_prob", False)  # transformers would not apply it
    grouped = values.value("topk_method", "greedy") != "greedy"
    groups = values.count("n_group", 1), values.count("topk_group", 1)
    return {
        "sigmoid": False,
        "normalize_weights": False,
        "weight_scale": values.number("routed_scaling_factor", 1.0),
        "n_groups": groups[0] if grouped else 1,
        "groups_per_token": groups[1] if grouped else 1,
    }


def write_router(config: Config) -> Mapping[str, Any]:
    """Settings of the router, and the class."""
    if config.normalize_weights and not config.sigmoid:
        raise LuthierError("DeepSeek-V2 does not normalize the weights of experts: set normalize_weights to false")
    name, model_type = list(CLASSES.items())[config.sigmoid]
    grouped = config.n_groups > 1
    return {
        "architectures": [name],
        "model_type": model_type,
        "scoring_func": "sigmoid" if config.sigmoid else "softmax",
        "topk_method": "noaux_tc" if config.sigmoid else "group_limited_greedy" if grouped else "greedy",
        "norm_topk_prob": config.normalize_weights,
        "routed_scaling_factor": config.weight_scale,
        "n_group": config.n_groups,
        "topk_group": config.groups_per_token,
    }


ROPE = config_json.RopeSettings(theta=10_000.0, context=2048)


def read_rope(reading: Reading) -> Mapping[str, Any]:
    """RoPE settings, and YaRN's factor of the scores."""
    ROPE.read(reading)
    scaling = reading.fields["rope_scaling"]
    if scaling is None or scaling.kind != "yarn":
        if scaling is not None:
            raise LuthierError(f"config.json: rope_type {scaling.kind} is not supported for deepseek, only yarn")
        return {"mscale_all_dim": 0.0}
    values = reading.values
    rope = values.section("rope_scaling" if values.values.get("rope_scaling") else "rope_parameters")
    return {"mscale_all_dim": float(rope.finite("mscale_all_dim", 0.0))}


def write_rope(config: Config) -> Mapping[str, Any]:
    """Write the RoPE settings. The attention factor is explicit, so that it does not depend on `mscale`."""
    settings = dict(ROPE.write(config))
    scaling = config.rope_scaling
    if scaling is not None and config.mscale_all_dim:
        more = {"attention_factor": scaling.magnitude, "mscale_all_dim": config.mscale_all_dim}
        for section in ("rope_parameters", "rope_scaling"):
            settings[section] = {**settings[section], **more}
    return settings


def check_kv_heads(reading: Reading) -> Mapping[str, Any]:
    """Check that each head has keys and values of its own."""
    reading.values.require_one_of("num_key_value_heads", None, reading.fields["n_heads"])
    return {}


HUGGING_FACE_SETTINGS: SettingList[Config] = config_json.settings(
    Config,
    "DeepseekV3ForCausalLM",
    V3,
    Setting("vocab_size", "vocab_size", count()),
    Setting("hidden_size", "dim", count()),
    Setting("moe_intermediate_size", "hidden_dim", count()),
    Setting("intermediate_size", "dense_hidden_dim", count()),
    Setting("num_hidden_layers", "n_layers", count(LARGEST_DEPTH)),
    Setting("num_attention_heads", "n_heads", count()),
    CustomSetting(
        check_kv_heads,
        lambda config: {"num_key_value_heads": config.n_heads},
    ),
    OptionalSetting("q_lora_rank", "query_rank", count(), default=1536),
    Setting("kv_lora_rank", "latent_rank", count(), default=512),
    Setting("qk_nope_head_dim", "nope_dim", count(), default=128),
    Setting("qk_rope_head_dim", "rope_dim", count(), default=64),
    Setting("v_head_dim", "value_dim", count(), default=128),
    Setting("n_routed_experts", "n_experts", count(LARGEST_EXPERTS)),
    Setting("num_experts_per_tok", "experts_per_token", count()),
    Setting("n_shared_experts", "n_shared_experts", count()),
    CustomSetting(
        lambda reading: {"n_dense_layers": int(reading.values.finite("first_k_dense_replace", 0)) or None},
        lambda config: {"first_k_dense_replace": config.n_dense_layers or 0},
    ),
    CustomSetting(read_router, write_router),
    Fixed("moe_layer_freq", 1),
    Fixed("hidden_act", "silu", also=("swish",)),
    Setting("rms_norm_eps", "norm_eps", positive, default=1e-6),
    CustomSetting(read_rope, write_rope),
    Fixed("rope_interleave", True),
    Fixed("attention_bias", False),
    Fixed("mlp_bias", False, written=False),
    Setting("attention_dropout", "dropout", probability, default=0.0),
    Setting("tie_word_embeddings", "tie_embeddings", flag, default=False),
    # for training, for layers that are not read, or implied by others
    Ignored(
        "aux_loss_alpha", "seq_aux", "ep_size", "num_nextn_predict_layers", "num_mtp_layers", "qk_head_dim", "head_dim",
        "output_router_logits", "router_aux_loss_coef",
    ),
)  # fmt: skip


def gguf_tensors(config: Config) -> Table:
    """Weight table of llama.cpp's architecture "deepseek2", whose matrices to the keys are transposed."""
    parts = {
        "query": "attn_q", "query_up": "attn_q_b", "query_down": "attn_q_a", "query_norm": "attn_q_a_norm",
        "down": "attn_kv_a_mqa", "latent_norm": "attn_kv_a_norm", "output": "attn_output",
    }  # fmt: skip
    heads, rank = config.n_heads, config.latent_rank
    keys, values = (heads, config.nope_dim, rank), (heads, config.value_dim, rank)
    block = [
        Rule(GGUF + "attn_norm.weight", BLOCK + "attention_norm.weight"),
        *attention_rules(config, {part: GGUF + name for part, name in parts.items()}),
        Rule(GGUF + "attn_k_b.weight", ATTENTION + "key.weight", Transpose(), Reshape(keys, flat(keys))),
        Rule(GGUF + "attn_v_b.weight", ATTENTION + "value.weight", Reshape(values, flat(values))),
        Rule(GGUF + "ffn_norm.weight", BLOCK + "feed_forward_norm.weight"),
    ]
    mixture = [
        *llama_like_names.gguf_experts(config.hidden_dim),
        *llama_like_names.gguf_feed_forward("_shexp", "feed_forward.shared"),
    ]
    if config.sigmoid:
        mixture.append(Rule(GGUF + "exp_probs_b.bias", BLOCK + "feed_forward.router.balance"))
    layers = block_rules(config, block, mixture, llama_like_names.gguf_feed_forward())
    return llama_like_names.gguf_table([], layers, config.tie_embeddings)


def flat(shape: tuple[int, int, int]) -> tuple[int, int]:
    """Flatten (heads, rows) to the rows of one matrix."""
    return shape[0] * shape[1], shape[2]


def name(key: str) -> str:
    """A GGUF key."""
    return f"deepseek2.{key}"


SOFTMAX, SIGMOID = 1, 2  # llama.cpp's enumeration of router scores


def read_heads(reading: Reading) -> Mapping[str, Any]:
    """The sizes of latent attention. llama.cpp's own key and value lengths are those of the latent."""
    values = reading.values
    rope_dim, rank = values.count(name("rope.dimension_count")), values.count(name("attention.kv_lora_rank"))
    key_length = values.count(name("attention.key_length_mla"))
    values.require_one_of(name("attention.head_count_kv"), 1)
    values.require_one_of(name("attention.key_length"), rank + rope_dim)
    values.require_one_of(name("attention.value_length"), rank)
    if key_length <= rope_dim:
        raise LuthierError(f"the settings: '{name('attention.key_length_mla')}' {key_length} must be over {rope_dim}")
    query_rank = values.number(name("attention.q_lora_rank"), 0.0, least=0.0)
    dense = values.number(name("leading_dense_block_count"), 0.0, least=0.0)
    return {
        "n_heads": values.count(name("attention.head_count")),
        "head_dim": rope_dim,  # for the rotary positions
        "query_rank": values.count(name("attention.q_lora_rank")) if query_rank else None,
        "latent_rank": rank,
        "nope_dim": key_length - rope_dim,
        "rope_dim": rope_dim,
        "value_dim": values.count(name("attention.value_length_mla")),
        "n_dense_layers": int(dense) or None,
    }


def write_heads(config: Config) -> Mapping[str, Any]:
    """Write the sizes of latent attention. Without query_rank, 0 is written, since llama.cpp may require the key."""
    return {
        name("attention.head_count"): config.n_heads,
        name("attention.head_count_kv"): 1,
        name("attention.key_length"): config.latent_rank + config.rope_dim,
        name("attention.value_length"): config.latent_rank,
        name("attention.key_length_mla"): config.nope_dim + config.rope_dim,
        name("attention.value_length_mla"): config.value_dim,
        name("attention.q_lora_rank"): config.query_rank or 0,
        name("attention.kv_lora_rank"): config.latent_rank,
        name("rope.dimension_count"): config.rope_dim,
        name("leading_dense_block_count"): config.n_dense_layers or 0,
    }


def read_gguf_router(reading: Reading) -> Mapping[str, Any]:
    """Settings of the router."""
    values = reading.values
    values.require_one_of(name("expert_gating_func"), SOFTMAX, SIGMOID, 0)
    return {
        "sigmoid": values.value(name("expert_gating_func"), SOFTMAX) == SIGMOID,
        "normalize_weights": values.flag(name("expert_weights_norm"), False),
        "weight_scale": values.number(name("expert_weights_scale"), 1.0),
        "n_groups": values.count(name("expert_group_count"), 1),
        "groups_per_token": values.count(name("expert_group_used_count"), 1),
    }


def write_gguf_router(config: Config) -> Mapping[str, Any]:
    """Write the settings read by `read_gguf_router`."""
    groups = {
        name("expert_group_count"): config.n_groups,
        name("expert_group_used_count"): config.groups_per_token,
    }
    return {
        name("expert_gating_func"): SIGMOID if config.sigmoid else SOFTMAX,
        name("expert_weights_norm"): config.normalize_weights,
        name("expert_weights_scale"): config.weight_scale,
        **(groups if config.n_groups > 1 else {}),
    }


GGUF_ROPE = gguf_metadata.RopeSettings("deepseek2", scaling_types=("none", "yarn"))
LOG_MULTIPLIER = name("rope.scaling.yarn_log_multiplier")


def read_gguf_rope(reading: Reading) -> Mapping[str, Any]:
    """RoPE settings. For this architecture the multiplier is a tenth of mscale_all_dim."""
    values, found = reading.values, reading.values.values
    all_dim = 10 * values.number(LOG_MULTIPLIER, 0.0, least=0.0)
    found.pop(LOG_MULTIPLIER, None)  # the shared reader interprets it differently
    GGUF_ROPE.read(reading)
    del reading.fields["head_dim"]
    scaling = reading.fields["rope_scaling"]
    if scaling is None:
        return {"mscale_all_dim": 0.0}
    ours = values.number(gguf_metadata.LUTHIER_ATTENTION_FACTOR, 1.0 if all_dim else 0.0, least=0.0)
    return {"mscale_all_dim": float(f"{all_dim:.6g}"), "rope_scaling": replace(scaling, attention_factor=ours)}


def write_gguf_rope(config: Config) -> Mapping[str, Any]:
    """Write the RoPE settings. With a multiplier, llama.cpp's attention factor is 1."""
    scaling = config.rope_scaling
    if scaling is None:
        return GGUF_ROPE.write(config)
    usual = replace(scaling, attention_factor=0.0)
    settings = {**GGUF_ROPE.write(replace(config, rope_scaling=usual))}
    settings[gguf_metadata.LUTHIER_ATTENTION_FACTOR] = scaling.attention_factor
    return {**settings, LOG_MULTIPLIER: config.mscale_all_dim / 10}


GGUF_SETTINGS: SettingList[Config] = gguf_metadata.settings(
    Config,
    "deepseek2",
    gguf_metadata.VocabSize("deepseek2"),
    Setting(name("context_length"), "context_length", count(LARGEST_CONTEXT)),
    Setting(name("embedding_length"), "dim", count()),
    Setting(name("expert_feed_forward_length"), "hidden_dim", count()),
    Setting(name("feed_forward_length"), "dense_hidden_dim", count()),
    gguf_metadata.LayerCount("deepseek2"),
    CustomSetting(read_heads, write_heads),
    Setting(name("expert_count"), "n_experts", count(LARGEST_EXPERTS)),
    Setting(name("expert_used_count"), "experts_per_token", count()),
    Setting(name("expert_shared_count"), "n_shared_experts", count()),
    CustomSetting(read_gguf_router, write_gguf_router),
    Setting(name("attention.layer_norm_rms_epsilon"), "norm_eps", positive),
    CustomSetting(read_gguf_rope, write_gguf_rope),
    Setting("luthier.dropout", "dropout", probability, default=0.0),
    gguf_metadata.TIED_EMBEDDINGS,
)


def caveats(config: Config) -> list[str]:
    """Messages about what llama.cpp would compute differently from this model."""
    found = []
    if config.norm_eps != EPS:
        found.append(f"llama.cpp's norms inside of attention have an eps of {config.norm_eps:g}, this model's {EPS:g}")
    if config.n_groups > 1 and not config.sigmoid:
        found.append("llama.cpp scores a group of experts by its best two, this model by its best one")
    scaling = config.rope_scaling
    if scaling is not None and (not config.mscale_all_dim or scaling.magnitude != 1):
        found.append("llama.cpp has another attention factor of YaRN for deepseek2")
    return found


FAMILY = Family(
    "deepseek",
    Config,
    SIZES,
    build,
    initialize,
    {
        "hf": FormatSpec(hugging_face_tensors, HUGGING_FACE_SETTINGS, CLASSES),
        "gguf": FormatSpec(gguf_tensors, GGUF_SETTINGS, architecture="deepseek2", caveats=caveats),
    },
)
