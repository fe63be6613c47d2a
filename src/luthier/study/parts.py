"""Parts of a model: read from what a family builds, and grouped for the way from one family to another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from luthier.architectures import composed, registry
from luthier.architectures.family import Config
from luthier.errors import LuthierError, UsageError
from luthier.model.attention import Attention
from luthier.model.blocks import ParallelBlock
from luthier.model.latent_attention import LatentAttention
from luthier.model.mask import Chunked
from luthier.model.moe import MoE
from luthier.model.norm import ScaledRMSNorm
from luthier.model.qk_norm import AllHeadsNorm, HeadNorm
from luthier.model.rope import PartialRope, QueryTemperature, UnitQKNorm
from luthier.model.router import GroupedSigmoidRouter, GroupedSoftmaxRouter, SigmoidRouter, SoftmaxRouter
from luthier.model.scale import NormedEmbedding, RoundedScaleEmbedding, Scale, ScaledEmbedding
from luthier.model.transformer import Transformer

# what changes together on the way from one family to another, in the order of the way: (name, fields)
PARTS: dict[str, tuple[str, ...]] = {
    "norm": ("norm", "norm_eps"),
    "norm placement": ("norm_placement",),
    "positions": ("positions", "rope_theta", "rope_scaling", "rotary_dim"),
    "feed-forward": ("feed_forward", "hidden_dim"),
    "biases": ("qkv_bias", "out_bias", "mlp_bias", "logit_bias"),
    "kv heads": ("n_kv_heads", "head_dim"),
    "qk norm": ("qk_norm",),
    "local layers": (
        "window", "local", "global_layers", "nope_layers", "local_rope_theta", "temperature_floor",
        "temperature_scale",
    ),
    "sinks": ("sinks",),
    "softcaps": ("attention_softcap", "logit_softcap"),
    "latent attention": ("latent_rank", "query_rank", "nope_dim", "rope_dim", "value_dim"),
    "experts": (
        "n_experts", "experts_per_token", "expert_dim", "shared_dim", "dense_layers", "router", "n_groups",
        "groups_per_token", "normalize_weights", "weight_scale",
    ),
    "parallel": ("parallel", "shared_norm"),
    "multipliers": (
        "embedding", "embedding_scale", "residual_multiplier", "logit_multiplier", "attention_scale",
    ),
    "tied embeddings": ("tie_embeddings",),
    "dropout": ("dropout",),
}  # fmt: skip


def composed_of(config: Config, name: str) -> composed.Config:
    """The parts of a family's model as a composed Config, which builds the same. name: of the model, in errors.

    Read from the modules of the model itself. Raises a UsageError where a module is of a kind, or has a setting, that
    composed models do not.
    """
    if isinstance(config, composed.Config):
        return config
    model = registry.build_on_meta(config)
    found = composed.Config(**parts_of(model, config))
    try:
        there = dict(outline(registry.build_on_meta(found)))
    except LuthierError as error:
        raise UsageError(f"{name} cannot be taken apart: {error}") from None
    wanted = dict(outline(model))
    for place in [*wanted, *there]:
        if wanted.get(place) != there.get(place):
            raise UsageError(
                f"{name} cannot be taken apart: it has {wanted.get(place, 'nothing')} at {place}, which composed "
                "models do not have. It can be a variant by itself (--variants), without changes"
            )
    return found


def outline(model: Transformer) -> Iterator[tuple[str, str]]:
    """What a model computes, module by module: kind, settings, and shapes of its weights."""
    for name, module in model.named_modules():
        settings = {
            key: value
            for key, value in sorted(vars(module).items())
            if not key.startswith("_") and (value is None or isinstance(value, (bool, int, float, str)))
        }
        kind = type(module).__name__
        if isinstance(module, ScaledRMSNorm) and settings["scale"] == 1:
            kind, settings = "RMSNorm", {"eps": module.eps, "training": module.training}
        if isinstance(module, Scale) and module.factor == 1:
            kind, settings = "Identity", {"training": module.training}
        if isinstance(module, Attention):
            settings["mask"] = repr(module.mask)
        if hasattr(module, "scaling"):
            settings["scaling"] = repr(module.scaling)
        shapes = {key: tuple(weight.shape) for key, weight in module.named_parameters(recurse=False)}
        yield name or "the model", f"{kind} {settings} {shapes}"


def parts_of(model: Transformer, config: Config) -> dict[str, Any]:
    """Fields of a composed Config, from the modules of a model."""
    blocks, kinds = model.layers, {kind: name for name, kind in composed.NORMS.items()}
    first, last = blocks[0], model.norm
    dense = next((block.feed_forward for block in blocks if not isinstance(block.feed_forward, MoE)), None)
    after, before = not isinstance(first.attention_post, (nn.Identity, Scale)), first.attention_norm
    cap = getattr(model.output, "softcap", None)
    scaled = isinstance(last, ScaledRMSNorm)
    fields: dict[str, Any] = {
        **{name: getattr(config, name) for name in ("vocab_size", "context_length", "dim", "n_layers", "n_heads")},
        "tie_embeddings": config.tie_embeddings,
        "dropout": config.dropout,
        "norm": "rms" if scaled else kinds.get(type(last), "unit"),
        "norm_eps": last.eps,
        "norm_placement": "after" if isinstance(before, nn.Identity) else "both" if after else "before",
        "logit_multiplier": last.scale if scaled else 1.0,
        "logit_softcap": cap,
        "logit_bias": model.output.bias is not None,
        "residual_multiplier": first.attention_post.factor if isinstance(first.attention_post, Scale) else 1.0,
        "parallel": isinstance(first, ParallelBlock),
        "shared_norm": isinstance(first, ParallelBlock) and first.shares_norm,
        **embedding_parts(model.embedding),
        **position_parts(model),
        **attention_parts(first.attention, config),
        **local_parts(model),
    }
    if dense is not None:
        names: dict[type[nn.Module], str] = {kind: name for name, kind in composed.FEED_FORWARDS.items()}
        fields |= {
            "feed_forward": names.get(type(dense), "gelu"),
            "hidden_dim": dense.get_submodule("down").in_features,
        }
        fields["mlp_bias"] = dense.get_submodule("down").bias is not None
    else:
        fields |= {"feed_forward": "swiglu", "mlp_bias": False, "hidden_dim": 8 * config.dim // 3 // 32 * 32}
    return fields | expert_parts(model)


def embedding_parts(embedding: nn.Embedding) -> dict[str, Any]:
    """The kind of the embedding."""
    if isinstance(embedding, ScaledEmbedding):
        kind = "rounded_scale" if isinstance(embedding, RoundedScaleEmbedding) else "scaled"
        return {"embedding": kind, "embedding_scale": embedding.scale}
    return {"embedding": "normed" if isinstance(embedding, NormedEmbedding) else "plain"}


def position_parts(model: Transformer) -> dict[str, Any]:
    """Positions."""
    layers = sorted((block.attention for block in model.layers), key=lambda each: each.mask.window is not None)
    ropes = [(step, each.rope) for each in layers for step in each.qk_steps if each.rope is not None]  # global first
    found = next((pair for pair in ropes if isinstance(pair[0], PartialRope) or pair[0] is pair[1]), None)
    if found is None:
        return {"positions": "none" if model.position_embedding is None else "learned"}
    step, rope = found
    rotated = rope.head_dim if isinstance(step, PartialRope) else None
    return {
        "positions": "rope", "rope_theta": rope.theta, "rope_scaling": rope.scaling, "rotary_dim": rotated
    }  # fmt: skip


def attention_parts(attention: Attention, config: Config) -> dict[str, Any]:
    """Heads, biases and norms of attention."""
    usual = attention.head_dim**-0.5
    fields: dict[str, Any] = {
        "attention_softcap": attention.softcap,
        "sinks": attention.sinks is not None,
        "out_bias": attention.output.bias is not None,
        "qkv_bias": attention.query.bias is not None,
    }
    magnitude = 1.0
    if attention.rope is not None and attention.rope.scaling is not None:
        magnitude = attention.rope.scaling.magnitude
    if attention.scale not in (usual, usual * magnitude**2):
        fields["attention_scale"] = attention.scale
    if isinstance(attention, LatentAttention):
        query_rank = None if attention.query_down is None else attention.query_down.out_features
        return fields | {
            "latent_rank": attention.rank,
            "query_rank": query_rank,
            "nope_dim": attention.nope_dim,
            "rope_dim": attention.rope_dim,
            "value_dim": attention.value_dim,
        }
    kinds = {HeadNorm: "head", AllHeadsNorm: "all_heads", UnitQKNorm: "unit"}
    norms = [kinds[type(step)] for step in attention.qk_steps if type(step) in kinds]
    width = None if config.dim == attention.head_dim * config.n_heads else attention.head_dim
    heads = None if attention.n_kv_heads == config.n_heads else attention.n_kv_heads
    return fields | {"n_kv_heads": heads, "head_dim": width, "qk_norm": norms[0] if norms else "none"}


def local_parts(model: Transformer) -> dict[str, Any]:
    """Which layers see a part of the text, and which have no rotary positions."""
    attention = [block.attention for block in model.layers]
    windows = [each.mask.window for each in attention]
    fields: dict[str, Any] = {"window": next((width for width in windows if width is not None), None)}
    if fields["window"] is not None:
        fields["global_layers"] = tuple(layer for layer, width in enumerate(windows) if width is None) or None
        fields["local"] = "chunks" if any(isinstance(each.mask, Chunked) for each in attention) else "window"
    if any(each.rope is not None for each in attention):
        fields["nope_layers"] = tuple(layer for layer, each in enumerate(attention) if each.rope is None) or None
    thetas = {each.mask.window is None: each.rope.theta for each in attention if each.rope is not None}
    if len(set(thetas.values())) > 1:
        fields["local_rope_theta"] = thetas[False]
    for step in (step for each in attention for step in each.qk_steps if isinstance(step, QueryTemperature)):
        fields |= {"temperature_floor": step.floor_scale, "temperature_scale": step.scale}
    return fields


def expert_parts(model: Transformer) -> dict[str, Any]:
    """The mixture, if there is one."""
    feed_forwards = [block.feed_forward for block in model.layers]
    moe = next((each for each in feed_forwards if isinstance(each, MoE)), None)
    if moe is None:
        return {}
    router, shared = moe.router, moe.shared
    dense = tuple(layer for layer, each in enumerate(feed_forwards) if not isinstance(each, MoE))
    fields: dict[str, Any] = {
        "n_experts": moe.n_experts,
        "experts_per_token": moe.experts_per_token,
        "expert_dim": moe.experts.down.shape[1],
        "shared_dim": None if shared is None else shared.get_submodule("down").in_features,
        "dense_layers": dense or None,
    }
    if isinstance(router, SoftmaxRouter):
        fields["router"] = "softmax" if router.over == "chosen" else "softmax_all"
    elif isinstance(router, SigmoidRouter):
        fields["router"] = "sigmoid"
    elif isinstance(router, (GroupedSigmoidRouter, GroupedSoftmaxRouter)):
        fields |= {"n_groups": router.n_groups, "groups_per_token": router.groups_per_token}
        fields["weight_scale"], fields["router"] = router.scale, "grouped_softmax"
        if isinstance(router, GroupedSigmoidRouter):
            fields |= {"router": "grouped_sigmoid", "normalize_weights": router.normalize}
    return fields
