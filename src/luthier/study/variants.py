"""Variants of a study: the way between families, changes to one model, or those of a TOML file; and their budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from luthier.architectures import composed, registry
from luthier.architectures.family import Config
from luthier.config import from_table, read_toml, to_table
from luthier.errors import UsageError
from luthier.study.parts import PARTS, composed_of, outline
from luthier.training.flops import flops_per_token

TOLERANCE = 0.02  # of the parameters
WIDTHS = ("hidden_dim", "dense_hidden_dim", "expert_dim", "shared_dim")
KINDS = ("norm", "positions", "feed_forward")  # fields of several kinds: only the one that is there can be removed
SHARED = ("vocab_size", "context_length", "dim", "n_layers", "n_heads")  # of all variants


@dataclass(frozen=True)
class Variant:
    """One model of a study."""

    name: str
    preset: str
    """The preset whose family it is of."""
    config: Config
    before: str | None = None
    """The variant that it has one part more than; the first variant of the study unless given."""
    learning_rate: float | None = None
    """Its own; the study's unless given."""


def preset_of(name: str, size: str) -> str:
    """The preset of this name, or of the family of this name in this size."""
    if name in registry.presets():
        return name
    family = registry.FAMILIES.get(name)
    found = [each for each in (family.sizes if family else ()) if each.endswith(f"-{size}")]
    if not found:
        raise UsageError(f"no preset or family '{name}' of size {size}. There are {', '.join(registry.FAMILIES)}")
    return found[0]


def base_config(name: str, size: str, changes: Mapping[str, Any]) -> composed.Config:
    """The parts of the base, without dropout. changes: fields of a composed Config."""
    config = replace(composed_of(registry.preset(preset_of(name, size)), name), dropout=0.0)
    return from_table(composed.Config, {**to_table(config), **changes}, "the base")


def way(base: composed.Config, first: str, to: str, size: str) -> list[Variant]:
    """The variants from a base to a family, each with one part more. first: the base's name."""
    target = registry.preset(preset_of(to, size))
    shape: dict[str, Any] = {name: getattr(base, name) for name in SHARED}
    goal = replace(composed_of(replace(target, **shape), to), dropout=0.0)
    found, config, before = [], base, first
    for part, names in PARTS.items():
        changed = replace(config, **{name: getattr(goal, name) for name in names})
        if changed != config:
            config, name = changed, f"+ {part}"
            found.append(Variant(name, "composed-nano", config, before))
            before = name
    if config != goal:
        lacking = [each.name for each in fields(goal) if getattr(goal, each.name) != getattr(config, each.name)]
        raise AssertionError(f"parts without a place on the way: {lacking}")
    return [*found[:-1], replace(found[-1], name=f"{to} ({found[-1].name})")] if found else []


def additions(base: composed.Config) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """What --add and --remove know: for each name the fields with the part, and without it."""
    heads = base.n_heads
    few = next((n for n in range(heads // 2, 0, -1) if heads % n == 0), 1)
    width = base.head_dim or base.dim // heads
    off = {"qkv_bias": False, "out_bias": False, "mlp_bias": False}
    no_latent = {"latent_rank": None}
    return {
        "rms_norm": ({"norm": "rms"}, {"norm": "layer"}),
        "post_norm": ({"norm_placement": "both"}, {"norm_placement": "before"}),
        "rope": ({"positions": "rope"}, {"positions": "none", "nope_layers": None}),
        "learned_positions": ({"positions": "learned"}, {"positions": "none"}),
        "swiglu": ({"feed_forward": "swiglu", "mlp_bias": False}, {"feed_forward": "gelu"}),
        "geglu": ({"feed_forward": "geglu", "mlp_bias": False}, {"feed_forward": "gelu"}),
        "relu2": ({"feed_forward": "relu2"}, {"feed_forward": "gelu"}),
        "biases": (dict.fromkeys(off, True), off),
        "grouped_queries": ({"n_kv_heads": few}, {"n_kv_heads": None}),
        "qk_norm": ({"qk_norm": "head"}, {"qk_norm": "none"}),
        "window": ({"window": max(1, base.context_length // 4)}, {"window": None, "global_layers": None}),
        "sinks": ({"sinks": True}, {"sinks": False}),
        "softcap": ({"attention_softcap": 50.0}, {"attention_softcap": None}),
        "latent_attention": (
            {
                "latent_rank": max(1, base.dim // 3), "nope_dim": width, "value_dim": width,
                "rope_dim": max(2, width // 4 * 2), "n_kv_heads": None, "head_dim": None,
                "qkv_bias": False, "out_bias": False,
            },
            no_latent,
        ),
        "experts": (
            {"n_experts": 4, "experts_per_token": 2, "expert_dim": max(1, base.hidden_dim // 4)}, {"n_experts": None}
        ),
        "parallel": ({"parallel": True}, {"parallel": False}),
        "tied_embeddings": ({"tie_embeddings": True}, {"tie_embeddings": False}),
    }  # fmt: skip


def changed(base: composed.Config, add: Sequence[str], remove: Sequence[str]) -> composed.Config:
    """The base with parts added and removed. Raises a UsageError for one that is unknown, or changes nothing."""
    known = additions(base)
    for names, verb, place in ((remove, "remove", 1), (add, "add", 0)):
        for name in names:
            if name not in known:
                raise UsageError(f"no part '{name}' to {verb}: there are {', '.join(known)}")
            with_part = known[name][0]
            others = [each for each in KINDS if each in with_part and getattr(base, each) != with_part[each]]
            if verb == "remove" and others:
                raise UsageError(f"the base has no {name} to remove: its {others[0]} is {getattr(base, others[0])}")
            new = replace(base, **known[name][place])
            if new == base:
                raise UsageError(f"to {verb} {name} changes nothing: the base {'has' if place == 0 else 'lacks'} it")
            base = new
    return base


def variants_of_file(path: Path, size: str, changes: Mapping[str, Any]) -> list[Variant]:
    """Variants of a TOML file: a table each, with `preset` (or a family), `add`, `remove`, `learning_rate`, and fields
    of a composed Config, or of the preset's own. The first is the base of the others, whose preset it is unless given.
    """
    found: list[Variant] = []
    for name, given in read_toml(path).items():
        if not isinstance(given, dict):
            raise UsageError(f"{path}: {name} is not a table: each variant is one, [{name}]")
        table = dict(given)
        preset = table.pop("preset", None)
        add, remove, rate = table.pop("add", []), table.pop("remove", []), table.pop("learning_rate", None)
        if rate is not None and (not isinstance(rate, (int, float)) or rate <= 0):
            raise UsageError(f"{path}: {name}: learning_rate is {rate}: it must be above 0")
        if preset is None and not found:
            raise UsageError(f'{path}: {name} is the first variant and names no preset: preset = "gpt2"')
        shape = {each: getattr(found[0].config, each) for each in SHARED} if found else {"dropout": 0.0, **changes}
        if preset is None:
            own, kind = found[0].config, found[0].preset
        else:
            kind = preset_of(preset, size)
            config = registry.preset(kind)
            own = from_table(type(config), {**to_table(config), **shape, "dropout": 0.0}, f"{path}: {name}")
        native = {each.name for each in fields(own)}
        if not add and not remove and set(table) <= native:
            own = from_table(type(own), {**to_table(own), **table}, f"{path}: {name}")
            found.append(Variant(name, kind, own, None, rate))
            continue
        parts = changed(composed_of(own, name), add, remove)
        parts = from_table(composed.Config, {**to_table(parts), **table}, f"{path}: {name}")
        found.append(Variant(name, "composed-nano", parts, None, rate))
    if not found:
        raise UsageError(f"{path} has no variants: each is a table, [NAME]")
    return found


def without_repetitions(variants: Sequence[Variant]) -> list[Variant]:
    """Variants without those that build the same model as an earlier one; names made unique."""
    seen: dict[str, str] = {}
    renamed: dict[str, str] = {}
    names: set[str] = set()
    found = []
    for variant in variants:
        before = renamed.get(variant.before, variant.before) if variant.before else None
        key = "\n".join(map(str, outline(registry.build_on_meta(variant.config)))) + str(variant.learning_rate)
        if key in seen:
            renamed[variant.name] = seen[key]
            continue
        name, number = variant.name, 2
        while name in names:
            name, number = f"{variant.name} {number}", number + 1
        renamed[variant.name] = seen[key] = name
        names.add(name)
        found.append(replace(variant, name=name, before=before))
    return found


def fitted(variant: Variant, parameters: int) -> Variant:
    """The variant with widths of feed-forwards that bring it nearest to a number of parameters.

    All widths are scaled alike, to multiples of 32, 16, 8 ... where that costs less than half a percent. Raises a
    UsageError if none comes within 2%.
    """
    config: Any = variant.config
    widths = {name: value for name in WIDTHS if isinstance(value := getattr(config, name, None), int)} or {
        "hidden_dim": 4 * config.dim
    }
    if getattr(config, "n_experts", 1) is None:
        widths = {"hidden_dim": config.hidden_dim}

    def scaled(factor: float, grain: int) -> Config:
        new: Config = replace(
            config, **{name: max(grain, round(width * factor / grain) * grain) for name, width in widths.items()}
        )
        return new

    one, two = (registry.count_parameters(scaled(factor, 1))[0] for factor in (1, 2))
    factor = 1 + (parameters - one) / (two - one)
    if factor > 0:
        for grain in (32, 16, 8, 4, 2, 1):
            found = scaled(factor, grain)
            missed = abs(registry.count_parameters(found)[0] / parameters - 1)
            if missed <= (0.005 if grain > 1 else TOLERANCE):
                return replace(variant, config=found)
    raise UsageError(
        f"{variant.name} cannot come within {TOLERANCE:.0%} of {parameters:,} parameters by its feed-forward's width: "
        "take a larger size, or another budget"
    )


def cost(config: Config) -> int:
    """FLOPs of training on one token."""
    return flops_per_token(registry.build_on_meta(config), config.context_length)
