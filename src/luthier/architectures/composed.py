"""Models composed of parts by name: what an ablation study trains between two families, or a shape of one's own.

With the parts of a family, the model is that family's: see study/parts.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from luthier.architectures import config_json, windows
from luthier.architectures.family import Family, FormatSpec
from luthier.architectures.initialize import empty_embedding, initialize_normal
from luthier.architectures.settings import CustomSetting, Reading, SettingList, head_dim
from luthier.config import from_table, to_table
from luthier.errors import LuthierError, UsageError, of_model
from luthier.formats.weight_table import Rule, Table
from luthier.model.attention import Attention
from luthier.model.blocks import ParallelBlock
from luthier.model.experts import Experts
from luthier.model.feed_forward import ExactGELUFeedForward, FeedForward, GeGLU, SquaredReLUFeedForward, SwiGLU
from luthier.model.latent_attention import LatentAttention
from luthier.model.mask import Chunked, MaskRule, SlidingWindow, causal
from luthier.model.moe import MoE
from luthier.model.norm import OffsetRMSNorm, RMSNorm, ScaledRMSNorm, UnitNorm
from luthier.model.output import CappedLinear
from luthier.model.qk_norm import AllHeadsNorm, HeadNorm
from luthier.model.rope import QueryTemperature, Rope, UnitQKNorm, partial_rope
from luthier.model.rope_scaling import RopeScaling
from luthier.model.router import GroupedSigmoidRouter, GroupedSoftmaxRouter, Router, SigmoidRouter, SoftmaxRouter
from luthier.model.scale import NormedEmbedding, RoundedScaleEmbedding, Scale
from luthier.model.transformer import Block, Transformer

FEED_FORWARDS: dict[str, type[FeedForward] | type[SwiGLU]] = {
    "gelu": FeedForward,
    "exact_gelu": ExactGELUFeedForward,
    "relu2": SquaredReLUFeedForward,
    "swiglu": SwiGLU,
    "geglu": GeGLU,
}
NORMS: dict[str, type[nn.Module]] = {"layer": nn.LayerNorm, "rms": RMSNorm, "offset_rms": OffsetRMSNorm}


@dataclass(frozen=True)
class Config:
    """Parts by name. The defaults are GPT-2's parts."""

    vocab_size: int = 512
    """Entries of the vocabulary."""
    context_length: int = 128
    """Tokens."""
    dim: int = 128
    """Width of the residual stream."""
    n_layers: int = 4
    """Blocks."""
    n_heads: int = 4
    """Query heads."""
    norm: Literal["layer", "rms", "offset_rms", "unit"] = "layer"
    """LayerNorm, RMSNorm, RMSNorm of 1 + w (Gemma), or RMSNorm without weights."""
    norm_placement: Literal["before", "after", "both"] = "before"
    """Norms before a sublayer, after it (OLMo 2), or both (Gemma 2)."""
    norm_eps: float = 1e-5
    """Added to the variance or the mean square."""
    positions: Literal["learned", "rope", "none"] = "learned"
    """Learned position embeddings, rotary positions, or none."""
    rope_theta: float = 10_000.0
    """Base of the rotary wavelengths."""
    rope_scaling: RopeScaling | None = None
    """RoPE scaling for a context longer than the one trained on."""
    rotary_dim: int | None = None
    """Dimensions of a head with rotary positions, the first ones; all unless given."""
    nope_layers: tuple[int, ...] | None = None
    """Layers without rotary positions, counted from 0; none unless given."""
    n_kv_heads: int | None = None
    """Heads of keys and values; n_heads unless given."""
    head_dim: int | None = None
    """Width of a head; dim / n_heads unless given."""
    qkv_bias: bool = True
    """Biases on queries, keys and values."""
    out_bias: bool = True
    """A bias on the output of attention."""
    mlp_bias: bool = True
    """Biases on the matrices of the feed-forward."""
    logit_bias: bool = False
    """A bias on the output matrix (GPT-J)."""
    qk_norm: Literal["none", "head", "all_heads", "unit"] = "none"
    """RMSNorm of q and k: a head (Qwen3), all heads (OLMo 2), or "unit": without weights, after the rotation."""
    window: int | None = None
    """Tokens that a query of a local layer sees, its own included; all layers are global unless given."""
    local: Literal["window", "chunks"] = "window"
    """Local layers have a sliding window, or chunks (Llama 4)."""
    global_layers: tuple[int, ...] | None = None
    """Layers that see everything although there is a window, counted from 0; none unless given."""
    local_rope_theta: float | None = None
    """rope_theta of local layers (Gemma 3); that of the others unless given."""
    temperature_floor: float | None = None
    """On layers without rotary positions, queries grow with the position from so many tokens on (Llama 4)."""
    temperature_scale: float = 0.1
    """By how much they grow."""
    attention_scale: float | None = None
    """Factor of the attention scores; 1 / sqrt(head_dim) unless given."""
    attention_softcap: float | None = None
    """Attention scores become softcap * tanh(score / softcap); they do not unless given."""
    sinks: bool = False
    """A learned sink in each head's softmax (gpt-oss)."""
    latent_rank: int | None = None
    """Latent attention (DeepSeek): dimensions of what keys and values are made of; usual attention unless given."""
    query_rank: int | None = None
    """With latent attention, dimensions that queries pass through; they do not unless given."""
    nope_dim: int = 32
    """With latent attention, dimensions of a head without positions."""
    rope_dim: int = 16
    """With latent attention, dimensions of a head with rotary positions."""
    value_dim: int = 32
    """With latent attention, dimensions of a head's values."""
    feed_forward: Literal["gelu", "exact_gelu", "relu2", "swiglu", "geglu"] = "gelu"
    """Kind of the feed-forward. (Experts are SwiGLU.)"""
    hidden_dim: int = 512
    """Width of the feed-forward."""
    n_experts: int | None = None
    """Experts of a layer; no mixture unless given."""
    experts_per_token: int = 2
    """Experts that each token is routed to."""
    expert_dim: int = 128
    """Width of each expert."""
    shared_dim: int | None = None
    """Width of the shared expert, which serves every token; there is none unless given."""
    dense_layers: tuple[int, ...] | None = None
    """Layers without experts, counted from 0; none unless given."""
    router: Literal["softmax", "softmax_all", "sigmoid", "grouped_softmax", "grouped_sigmoid"] = "softmax"
    """Softmax over the chosen experts (Mixtral) or over all, sigmoid (Llama 4), DeepSeek-V2's, DeepSeek-V3's."""
    n_groups: int = 1
    """Of DeepSeek's routers: groups of experts; the best are chosen first."""
    groups_per_token: int = 1
    """Of DeepSeek's routers: groups that the experts of a token may come from."""
    normalize_weights: bool = True
    """Of DeepSeek-V3's router: the weights of the chosen experts sum to 1."""
    weight_scale: float = 1.0
    """Of DeepSeek's routers: a factor of those weights."""
    parallel: bool = False
    """Attention and feed-forward read the same input (GPT-J)."""
    shared_norm: bool = False
    """With parallel: of one norm."""
    embedding: Literal["plain", "scaled", "rounded_scale", "normed"] = "plain"
    """Embeddings as they are, times a factor (Granite; Gemma rounds it), or normalized (nanochat)."""
    embedding_scale: float = 1.0
    """That factor."""
    residual_multiplier: float = 1.0
    """What a sublayer adds is multiplied by it (Granite)."""
    logit_multiplier: float = 1.0
    """Logits are multiplied by it (Granite)."""
    logit_softcap: float | None = None
    """Logits become softcap * tanh(logit / softcap); they do not unless given."""
    tie_embeddings: bool = True
    """Use the token embedding as the output matrix."""
    dropout: float = 0.0
    """Probability, in training only."""

    def is_moe(self, layer: int) -> bool:
        """Whether this layer, counted from 0, has experts."""
        return self.n_experts is not None and layer not in (self.dense_layers or ())

    def has_rope(self, layer: int) -> bool:
        """Whether this layer, counted from 0, has rotary positions."""
        return self.positions == "rope" and layer not in (self.nope_layers or ())


SIZES = {
    "composed-nano": Config(),
    "composed-micro": Config(2048, 256, 192, 6, 6, hidden_dim=768, expert_dim=192),
    "composed-mini": Config(4096, 256, 384, 7, 6, hidden_dim=1536, expert_dim=384, nope_dim=64, value_dim=64),
}


def build(config: Config) -> Transformer:
    """The model, with uninitialized weights (see registry.build)."""
    has_own_output = config.logit_softcap is not None or config.logit_bias
    return Transformer(
        build_embedding(config),
        [build_block(config, layer) for layer in range(config.n_layers)],
        norm(config, config.logit_multiplier),
        position_embedding=empty_embedding(config.context_length, config.dim)
        if config.positions == "learned"
        else None,
        output=build_output(config) if has_own_output else None,
        tie_embeddings=config.tie_embeddings,
        dropout=config.dropout,
    )


def build_embedding(config: Config) -> nn.Embedding:
    """The token embedding."""
    if config.embedding == "normed":
        return NormedEmbedding(torch.empty(config.vocab_size, config.dim), config.norm_eps)
    if config.embedding == "rounded_scale":
        return RoundedScaleEmbedding(torch.empty(config.vocab_size, config.dim), config.embedding_scale)
    return empty_embedding(config.vocab_size, config.dim, config.embedding_scale if config.embedding == "scaled" else 1)


def build_output(config: Config) -> nn.Linear:
    """An output matrix with a softcap or a bias."""
    if config.logit_softcap is None:
        return nn.Linear(config.dim, config.vocab_size)
    if config.logit_bias:
        raise UsageError(f"{of_model('logit_bias')} and {of_model('logit_softcap')} do not go together: leave one out")
    return CappedLinear(config.dim, config.vocab_size, config.logit_softcap)


def norm(config: Config, scale: float = 1.0) -> nn.Module:
    """A norm over the residual stream, times a constant."""
    if scale != 1 and config.norm != "rms":
        raise UsageError(f"{of_model('logit_multiplier')} {scale:g} needs {of_model('norm')} rms")
    if scale != 1:
        return ScaledRMSNorm(config.dim, config.norm_eps, scale)
    if config.norm == "unit":
        return UnitNorm(config.norm_eps)
    return NORMS[config.norm](config.dim, eps=config.norm_eps)


def build_block(config: Config, layer: int) -> Block:
    """The block of a layer, counted from 0."""
    before, after = config.norm_placement != "after", config.norm_placement != "before"
    attention = latent_attention(config, layer) if config.latent_rank is not None else build_attention(config, layer)
    feed_forward = build_feed_forward(config, layer)
    if config.parallel:
        if after or config.residual_multiplier != 1:
            raise UsageError(f"{of_model('parallel')} needs norms before, and no residual_multiplier")
        second = None if config.shared_norm else norm(config)
        return ParallelBlock(norm(config), attention, second, feed_forward, config.dropout)
    if after and config.residual_multiplier != 1:
        raise UsageError(f"{of_model('residual_multiplier')} goes with {of_model('norm_placement')} before")
    scale = None if config.residual_multiplier == 1 else config.residual_multiplier
    return Block(
        norm(config) if before else nn.Identity(),
        attention,
        norm(config) if before else nn.Identity(),
        feed_forward,
        config.dropout,
        attention_post=norm(config) if after else None if scale is None else Scale(scale),
        feed_forward_post=norm(config) if after else None if scale is None else Scale(scale),
    )


def build_attention(config: Config, layer: int) -> Attention:
    """Attention over keys and values."""
    scaling = config.rope_scaling if config.has_rope(layer) else None
    whole = config.rotary_dim in (None, head_dim(config))
    magnitude = scaling.magnitude if scaling and whole and config.qk_norm != "unit" else 1.0
    scale = head_dim(config) ** -0.5 if config.attention_scale is None else config.attention_scale
    return Attention(
        config.dim,
        config.n_heads,
        config.n_kv_heads,
        config.head_dim,
        qk_steps=qk_steps(config, layer),
        mask=mask_of(config, layer),
        scale=scale * magnitude**2,
        softcap=config.attention_softcap,
        sinks=config.sinks,
        bias=config.qkv_bias,
        out_bias=config.out_bias,
        dropout=config.dropout,
    )


def mask_of(config: Config, layer: int) -> MaskRule:
    """The mask rule of a layer."""
    if config.window is None or not windows.has_window(config, layer):
        return causal
    return SlidingWindow(config.window) if config.local == "window" else Chunked(config.window)


def qk_steps(config: Config, layer: int) -> tuple[nn.Module, ...]:
    """Modules applied to queries and keys: norms with weights before the rotation, those without after it."""
    width, eps = head_dim(config), config.norm_eps
    steps: list[nn.Module] = []
    kind = OffsetRMSNorm if config.norm == "offset_rms" else RMSNorm
    if config.qk_norm == "head":
        steps.append(HeadNorm(kind(width, eps), kind(width, eps)))
    if config.qk_norm == "all_heads":
        n_kv_heads = config.n_kv_heads or config.n_heads
        steps.append(AllHeadsNorm(kind(config.n_heads * width, eps), kind(n_kv_heads * width, eps)))
    if not config.has_rope(layer):
        floor = config.temperature_floor
        if config.qk_norm == "unit" and config.positions != "rope":
            steps.append(UnitQKNorm(eps))
        return (*steps, *([] if floor is None else [QueryTemperature(floor, config.temperature_scale)]))
    is_local = config.window is not None and windows.has_window(config, layer)
    own = config.local_rope_theta if is_local else None  # then it is not scaled either
    theta, scaling = (config.rope_theta, config.rope_scaling) if own is None else (own, None)
    steps.append(partial_rope(width, config.rotary_dim or width, theta, scaling))
    return (*steps, UnitQKNorm(eps)) if config.qk_norm == "unit" else tuple(steps)


def latent_attention(config: Config, layer: int) -> LatentAttention:
    """Latent attention, which has rotary positions, no biases, and sees everything."""
    needs = {
        "positions": ("rope", config.positions),
        "window": (None, config.window),
        "qk_norm": ("none", config.qk_norm),
        "sinks": (False, config.sinks),
        "nope_layers": (None, config.nope_layers),
        "attention_softcap": (None, config.attention_softcap),
    }
    for name, (right, found) in needs.items():
        if found != right:
            raise UsageError(f"{of_model(name)} is {found}: latent attention (latent_rank) needs {right}")
    if config.qkv_bias or config.out_bias:
        raise UsageError(
            f"{of_model('qkv_bias')} and out_bias: latent attention (latent_rank) has none, set them false"
        )
    assert config.latent_rank is not None
    scale = (config.nope_dim + config.rope_dim) ** -0.5
    return LatentAttention(
        config.dim,
        config.n_heads,
        query_rank=config.query_rank,
        rank=config.latent_rank,
        nope_dim=config.nope_dim,
        value_dim=config.value_dim,
        rope=Rope(config.rope_dim, config.rope_theta, config.rope_scaling),
        scale=scale if config.attention_scale is None else config.attention_scale,
        dropout=config.dropout,
    )


def build_feed_forward(config: Config, layer: int) -> nn.Module:
    """The feed-forward of a layer, dense or a mixture."""
    if not config.is_moe(layer):
        return FEED_FORWARDS[config.feed_forward](config.dim, config.hidden_dim, bias=config.mlp_bias)
    assert config.n_experts is not None
    return MoE(
        build_router(config),
        Experts(config.n_experts, config.dim, config.expert_dim),
        None if config.shared_dim is None else SwiGLU(config.dim, config.shared_dim),
        weights_on="input" if config.router == "sigmoid" else "output",
    )


def build_router(config: Config) -> Router:
    """What chooses experts."""
    assert config.n_experts is not None
    sizes = config.dim, config.n_experts, config.experts_per_token
    groups: dict[str, Any] = {
        "n_groups": config.n_groups, "groups_per_token": config.groups_per_token, "scale": config.weight_scale
    }  # fmt: skip
    match config.router:
        case "softmax":
            return SoftmaxRouter(*sizes)
        case "softmax_all":
            return SoftmaxRouter(*sizes, over="all")
        case "sigmoid":
            return SigmoidRouter(*sizes)
        case "grouped_softmax":
            return GroupedSoftmaxRouter(*sizes, **groups)
    return GroupedSigmoidRouter(*sizes, **groups, normalize=config.normalize_weights)


def initialize(model: Transformer, config: Config, generator: torch.Generator) -> None:
    """N(0, 0.02), learned positions N(0, 0.01), residual outputs divided by sqrt(2 n_layers) unless norms after the
    sublayers or a multiplier set the size of what they add.
    """
    sized = config.norm_placement == "after" or config.residual_multiplier != 1
    initialize_normal(model, generator, std=0.02, residual_scale=1.0 if sized else (2 * config.n_layers) ** -0.5)
    if model.position_embedding is not None:
        model.position_embedding.weight.data.normal_(0, 0.01, generator=generator)


def tensors(config: Config) -> Table:
    """Weight table: the names of the modules."""
    with torch.device("meta"):
        names = list(build(config).state_dict())
    duplicates = (("output.weight", "embedding.weight"),) if config.tie_embeddings else ()
    rules = [Rule(name, name) for name in names if name not in dict(duplicates)]
    return Table(rules, duplicates=duplicates)


def read_fields(reading: Reading) -> Mapping[str, Any]:
    """The Config, from its own section."""
    table = reading.values.values.get("composed")
    if not isinstance(table, dict):
        raise LuthierError("config.json: 'composed' is missing: it holds the parts of a composed model")
    reading.values.ignore("composed")
    return vars(from_table(Config, table, "config.json: composed"))


CLASS, MODEL_TYPE = "LuthierComposedForCausalLM", "luthier_composed"  # a class of Luthier's own
SETTINGS: SettingList[Config] = config_json.settings(
    Config,
    CLASS,
    MODEL_TYPE,
    CustomSetting(read_fields, lambda config: {"vocab_size": config.vocab_size, "composed": to_table(config)}),
)

FAMILY = Family(
    "composed", Config, SIZES, build, initialize, {"hf": FormatSpec(tensors, SETTINGS, {CLASS: MODEL_TYPE})}
)
