"""What the settings of all architectures share in GGUF files: the vocabulary, heads, and rotary positions.

llama.cpp has no setting for Llama 3.1's stretch of rotary positions. Its files hold a tensor of factors instead, one
for each pair, that divide the frequencies.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from luthier.architectures.names.settings import LARGEST_CONTEXT, LARGEST_DEPTH, LARGEST_NUMBER, ConfigJson
from luthier.errors import LuthierError
from luthier.formats.names import Checkpoint, Derived, Rule
from luthier.model.rope import Rope
from luthier.model.rope_scaling import RopeScaling, yarn_magnitude

EMBEDDING, OUTPUT, ROPE_FACTORS = "token_embd.weight", "output.weight", "rope_freqs.weight"
SHORT_FACTORS, LONG_FACTORS = "rope_factors_short.weight", "rope_factors_long.weight"
KINDS = ("none", "linear", "yarn", "longrope")  # of scaling, in llama.cpp
OUR_FACTOR, OUR_ATTENTION_FACTOR = "luthier.rope_scaling.factor", "luthier.rope_scaling.attention_factor"
PASSED_OVER = ("vocab_size", "tensor_data_layout", "rope.scaling.finetuned", "expert_used_count")  # change nothing
# (low_freq_factor, high_freq_factor, original context) of Llama 3.1 to 3.3, and of Llama 4 Scout
PUBLISHED = ((1.0, 4.0, 8192), (1.0, 1.0, 8192))


def read_vocab_size(checkpoint: Checkpoint) -> int:
    """Entries of the vocabulary: the rows of the embedding, since not every file has a setting that says it."""
    shape = checkpoint.shapes().get(EMBEDDING, ())
    if len(shape) != 2:
        raise LuthierError(f"'{EMBEDDING}' is missing, or no matrix")
    return shape[0]


def read_depth(settings: ConfigJson, section: str, checkpoint: Checkpoint) -> int:
    """The number of layers: at most that of the tensors, so that a wrong one costs nothing."""
    return settings.count(f"{section}.block_count", most=min(LARGEST_DEPTH, len(checkpoint.shapes())))


def is_tied(checkpoint: Checkpoint) -> bool:
    """Whether the embedding is the output matrix too: then the file has no other."""
    return OUTPUT not in checkpoint.shapes()


def has_biases(checkpoint: Checkpoint, part: str) -> bool:
    """Whether the first layer has a bias in this part: the tensors alone say it."""
    return any(name.startswith(f"blk.0.{part}") and name.endswith(".bias") for name in checkpoint.shapes())


def read_head_dim(settings: ConfigJson, section: str, dim: int, n_heads: int) -> int | None:
    """Width of a head; None where the heads divide dim, as they do unless told otherwise."""
    size = settings.count(f"{section}.attention.key_length", max(1, dim // n_heads))
    settings.only(f"{section}.attention.value_length", size)
    settings.only(f"{section}.rope.dimension_count", size)
    return None if size * n_heads == dim else size


def write_heads(section: str, n_heads: int, n_kv_heads: int, head_dim: int) -> dict[str, Any]:
    """The settings of attention with rotary positions."""
    return {
        f"{section}.attention.head_count": n_heads,
        f"{section}.attention.head_count_kv": n_kv_heads,
        f"{section}.attention.key_length": head_dim,
        f"{section}.attention.value_length": head_dim,
        f"{section}.rope.dimension_count": head_dim,
    }


def read_rope(
    settings: ConfigJson,
    section: str,
    head_dim: int,
    checkpoint: Checkpoint,
    *,
    context: int,
    kinds: tuple[str, ...] = KINDS,
) -> tuple[float, RopeScaling | None]:
    """(rope_theta, scaling), as llama.cpp understands a file. context: the setting `context_length`.

    Llama 3.1's scaling, in files that are not ours, is found from the factors.
    """
    theta = settings.number(f"{section}.rope.freq_base", 10_000.0)
    name = f"{section}.rope.scaling."
    settings.only(f"{name}type", None, *kinds)
    kind = settings.value(f"{name}type", "linear")
    older = settings.number(f"{section}.rope.scale_linear", 0.0, least=0.0)
    factor = settings.number(f"{name}factor", older, least=0.0) or 1.0
    attention = settings.number(f"{name}attn_factor", 1.0)
    settings.only(f"{name}yarn_attn_factor", None, 1.0)
    settings.only(f"{name}yarn_ext_factor", None, -1.0, 1.0 if kind == "yarn" else 0.0)
    if ROPE_FACTORS in checkpoint.shapes() and (kind in ("yarn", "longrope") or (kind == "linear" and factor != 1)):
        raise LuthierError(f"'{ROPE_FACTORS}' beside '{name}type' {kind} is not supported")
    match kind:
        case "yarn":
            return theta, read_yarn(settings, section, theta, factor, attention, context)
        case "longrope":
            if factor != 1:
                raise LuthierError(f"the settings: '{name}factor' {factor:g} beside longrope is not supported")
            return theta, read_longrope(settings, section, head_dim, attention, context, checkpoint)
        case "linear" if factor != 1:
            return theta, RopeScaling(factor, kind="linear", attention_factor=given(attention))
    scaling = read_llama3(settings, head_dim, theta, checkpoint)
    if attention != 1:
        scaling = replace(scaling or RopeScaling(1.0, kind="linear"), attention_factor=attention)
    return theta, scaling


def given(attention: float) -> float:
    """An attention factor as a scaling has it, where 0 means that it is the usual one."""
    return 0.0 if attention == 1 else attention


def read_yarn(
    settings: ConfigJson, section: str, theta: float, factor: float, attention: float, context: int
) -> RopeScaling:
    """YaRN, whose usual attention factor llama.cpp multiplies by that of the file."""
    if theta <= 1:
        raise LuthierError(f"the settings: '{section}.rope.freq_base' is {theta:g}: with yarn it must be above 1")
    of_all = settings.number(f"{section}.rope.scaling.yarn_log_multiplier", 0.0, least=0.0)
    magnitude = attention * yarn_magnitude(factor) / (yarn_magnitude(factor, of_all) if of_all else 1.0)
    usual = attention == 1 and not of_all
    return RopeScaling(
        factor,
        original_context_length=settings.count(
            f"{section}.rope.scaling.original_context_length", context, most=LARGEST_CONTEXT
        ),
        kind="yarn",
        attention_factor=settings.number(OUR_ATTENTION_FACTOR, 0.0 if usual else magnitude, least=0.0),
        beta_fast=settings.number(f"{section}.rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=settings.number(f"{section}.rope.scaling.yarn_beta_slow", 1.0),
    )


def read_longrope(
    settings: ConfigJson, section: str, head_dim: int, attention: float, context: int, checkpoint: Checkpoint
) -> RopeScaling:
    """LongRoPE, whose factors are tensors."""
    lists = []
    for name in (SHORT_FACTORS, LONG_FACTORS):
        if checkpoint.shapes().get(name) != (head_dim // 2,):
            raise LuthierError(f"'{name}' is missing, or not of {head_dim // 2} numbers: longrope needs it")
        lists.append(tuple(float(f"{number:.7g}") for number in checkpoint.tensor(name).float().tolist()))
        if not all(0 < number < LARGEST_NUMBER for number in lists[-1]):
            raise LuthierError(f"'{name}' holds numbers that are not above 0")
    original = settings.count(f"{section}.rope.scaling.original_context_length", context, most=LARGEST_CONTEXT)
    return RopeScaling(
        settings.number(OUR_FACTOR, context / original),
        original_context_length=max(2, original),
        kind="longrope",
        attention_factor=settings.number(OUR_ATTENTION_FACTOR, attention, least=0.0),
        short_factors=lists[0],
        long_factors=lists[1],
    )


def read_llama3(settings: ConfigJson, head_dim: int, theta: float, checkpoint: Checkpoint) -> RopeScaling | None:
    """Llama 3.1's scaling, from our own settings or from the factors."""
    if OUR_FACTOR in settings.values:
        low = settings.number("luthier.rope_scaling.low_freq_factor")
        high = settings.number("luthier.rope_scaling.high_freq_factor")
        if low > high:
            raise LuthierError(f"the settings: low_freq_factor {low:g} is above high_freq_factor {high:g}")
        original = settings.count("luthier.rope_scaling.original_context_length", most=LARGEST_CONTEXT)
        return RopeScaling(settings.number(OUR_FACTOR), low, high, original)
    if ROPE_FACTORS not in checkpoint.shapes():
        return None
    return scaling_of(checkpoint.tensor(ROPE_FACTORS), head_dim, theta)


def write_rope(
    section: str, theta: float, scaling: RopeScaling | None, kinds: tuple[str, ...] = KINDS
) -> dict[str, Any]:
    """The rotary settings. A LuthierError for a scaling that llama.cpp has none for."""
    base: dict[str, Any] = {f"{section}.rope.freq_base": theta}
    if scaling is None:
        return base
    kind, name, magnitude = scaling.kind, f"{section}.rope.scaling.", scaling.magnitude
    if kind == "dynamic" or (kind == "longrope" and kind not in kinds):
        raise LuthierError(f"GGUF has no setting for rope_scaling {kind} of {section}: write the model as hf")
    if kind == "yarn" and not scaling.truncate:
        raise LuthierError("GGUF has no setting for yarn's truncate = false: write the model as hf")
    attention = magnitude / yarn_magnitude(scaling.factor) if kind == "yarn" else magnitude
    if attention != 1:
        base[f"{name}attn_factor"] = attention
    if kind == "longrope" or (kind == "yarn" and scaling.attention_factor):
        base[OUR_ATTENTION_FACTOR] = scaling.attention_factor
    if kind == "llama3":
        return base | {
            OUR_FACTOR: scaling.factor,
            "luthier.rope_scaling.low_freq_factor": scaling.low_freq_factor,
            "luthier.rope_scaling.high_freq_factor": scaling.high_freq_factor,
            "luthier.rope_scaling.original_context_length": scaling.original_context_length,
        }
    base[f"{name}type"] = kind
    if kind == "longrope":  # llama.cpp would divide by a factor as well
        return base | {OUR_FACTOR: scaling.factor, f"{name}original_context_length": scaling.original_context_length}
    base[f"{name}factor"] = scaling.factor
    if kind == "yarn":
        base[f"{name}original_context_length"] = scaling.original_context_length
        base[f"{name}yarn_beta_fast"] = scaling.beta_fast
        base[f"{name}yarn_beta_slow"] = scaling.beta_slow
    return base


def scaling_of(factors: Tensor, head_dim: int, theta: float) -> RopeScaling | None:
    """The scaling with these factors (D/2,), if it is one that a published model has, whatever its `factor`."""
    if bool((factors == 1).all()):
        return None
    if head_dim % 2 == 0 and factors.shape == (head_dim // 2,) and 1 < (factor := float(factors.max())) < 2**53:
        for low, high, original in PUBLISHED:
            scaling = RopeScaling(factor, low, high, original)
            if torch.allclose(factors.float(), rope_factors(head_dim, theta, scaling), rtol=1e-4):
                return scaling
    raise LuthierError(f"'{ROPE_FACTORS}' stretches rotary positions in a way that no Llama of Meta's has")


def rope_factors(head_dim: int, theta: float, scaling: RopeScaling) -> Tensor:
    """What each pair's frequency is divided by, (D/2,)."""
    return Rope(head_dim, theta).frequencies() / Rope(head_dim, theta, scaling).frequencies()


def rope_rules(head_dim: int, theta: float, scaling: RopeScaling | None) -> list[Rule]:
    """The rules of the factors, where there are any."""
    if scaling is None:
        return []
    if scaling.kind == "longrope":
        lists = {SHORT_FACTORS: scaling.short_factors, LONG_FACTORS: scaling.long_factors}
        return [Rule(name, (), Derived(torch.tensor(factors))) for name, factors in lists.items()]
    if scaling.kind == "llama3":
        return [Rule(ROPE_FACTORS, (), Derived(rope_factors(head_dim, theta, scaling)))]
    return []


def mention_others(settings: ConfigJson, section: str) -> None:
    """Say which settings of the architecture are not understood, once all the others are read."""
    settings.pass_over(*(f"{section}.{name}" for name in PASSED_OVER))
    settings.pass_over(*(name for name in settings.values if not name.startswith(f"{section}.")))
    settings.mention_others()
