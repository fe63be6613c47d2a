"""GGUF metadata: the settings that all families share (vocabulary, heads, RoPE).

Tied embeddings and Llama 3.1's RoPE scaling have no key in llama.cpp and are inferred from the tensors: from a missing
output matrix, and from a tensor of factors, one for each rotary pair, by which the frequencies are divided. Other
settings without a key are written under "luthier.NAME", which other readers ignore.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from luthier.architectures.checked_values import LARGEST_CONTEXT, LARGEST_DEPTH, LARGEST_NUMBER, CheckedValues
from luthier.architectures.settings import CustomSetting, Entry, HeadDim, Reading, SettingList, WriteOnly, head_dim
from luthier.errors import LuthierError
from luthier.formats.weight_table import Checkpoint, Computed, Rule, Twice
from luthier.model.rope import Rope
from luthier.model.rope_scaling import RopeScaling, yarn_magnitude

EMBEDDING, OUTPUT, ROPE_FACTORS = "token_embd.weight", "output.weight", "rope_freqs.weight"
SHORT_FACTORS, LONG_FACTORS = "rope_factors_short.weight", "rope_factors_long.weight"
SCALING_TYPES = ("none", "linear", "yarn", "longrope")  # of RoPE scaling in llama.cpp
LUTHIER_FACTOR, LUTHIER_ATTENTION_FACTOR = "luthier.rope_scaling.factor", "luthier.rope_scaling.attention_factor"
IGNORED_KEYS = ("vocab_size", "tensor_data_layout", "rope.scaling.finetuned", "expert_used_count")  # without effect
# (low_freq_factor, high_freq_factor, original context) of Llama 3.1 to 3.3, and of Llama 4 Scout
KNOWN_LLAMA3_SCALINGS = ((1.0, 4.0, 8192), (1.0, 1.0, 8192))

C = TypeVar("C")


def settings(config: type[C], section: str, *entries: Entry[C]) -> SettingList[C]:
    """The list of settings of a GGUF file. section: llama.cpp's name of the architecture."""
    named: Entry[C] = WriteOnly({"general.architecture": section})
    return SettingList(
        config,
        (named, *entries),
        lambda fields: CheckedValues(fields, "the settings"),
        lambda values: warn_unused(values, section),
    )


class Sizes(Protocol):
    """The config fields of vocabulary size and depth."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def n_layers(self) -> int: ...


@dataclass(frozen=True)
class VocabSize:
    """The vocabulary size. Read from the embedding's shape, since not every file has the setting."""

    section: str

    def read(self, reading: Reading) -> None:
        reading.fields["vocab_size"] = read_vocab_size(reading.weights.checkpoint)

    def write(self, config: Sizes) -> Mapping[str, Any]:
        return {f"{self.section}.vocab_size": config.vocab_size}


@dataclass(frozen=True)
class LayerCount:
    """The number of layers, at most the number of tensors: a corrupt value must not allocate memory."""

    section: str

    def read(self, reading: Reading) -> None:
        most = min(LARGEST_DEPTH, len(reading.weights.checkpoint.shapes()))
        reading.fields["n_layers"] = reading.values.count(f"{self.section}.block_count", most=most)

    def write(self, config: Sizes) -> Mapping[str, Any]:
        return {f"{self.section}.block_count": config.n_layers}


@dataclass(frozen=True)
class LayerIndices:
    """Layer indices as a comma-separated string, since GGUF cannot hold an empty array. None is not written."""

    name: str
    field: str

    def read(self, reading: Reading) -> None:
        text = reading.values.value(self.name)
        indices = str(text).split(",") if text not in (None, "") else []
        if len(indices) > LARGEST_DEPTH or not all(index.isdecimal() and len(index) < 5 for index in indices):
            raise LuthierError(
                f"the settings: '{self.name}' must be layer indices separated by commas, it is {text!r:.60}"
            )
        reading.fields[self.field] = None if text is None else tuple(map(int, indices))

    def write(self, config: object) -> Mapping[str, Any]:
        indices = getattr(config, self.field)
        return {} if indices is None else {self.name: ",".join(map(str, indices))}


class RotaryHeads(HeadDim, Protocol):
    """The config fields of attention with RoPE."""

    @property
    def n_kv_heads(self) -> int: ...


@dataclass(frozen=True)
class Heads:
    """The heads of attention with RoPE. Comes after `dim` in the list.

    partial: whether RoPE may rotate only a part of each head, the field rotary_dim.
    """

    section: str
    partial: bool = False

    def read(self, reading: Reading) -> None:
        values, fields, name = reading.values, reading.fields, f"{self.section}.attention."
        n_heads = values.count(f"{name}head_count")
        size = values.count(f"{name}key_length", max(1, fields["dim"] // n_heads))
        values.require_one_of(f"{name}value_length", size)
        if self.partial:
            rotated = values.count(f"{self.section}.rope.dimension_count", size)
            fields["rotary_dim"] = None if rotated == size else rotated
        else:
            values.require_one_of(f"{self.section}.rope.dimension_count", size)
        fields.update(
            n_heads=n_heads,
            n_kv_heads=values.count(f"{name}head_count_kv", n_heads),
            head_dim=None if size * n_heads == fields["dim"] else size,
        )

    def write(self, config: RotaryHeads) -> Mapping[str, Any]:
        size = head_dim(config)
        rotated = getattr(config, "rotary_dim", None) or size
        return {
            f"{self.section}.attention.head_count": config.n_heads,
            f"{self.section}.attention.head_count_kv": config.n_kv_heads,
            f"{self.section}.attention.key_length": size,
            f"{self.section}.attention.value_length": size,
            f"{self.section}.rope.dimension_count": rotated,
        }


class WindowConfig(Protocol):
    """The config field of a window that all layers have, or none."""

    @property
    def window(self) -> int | None: ...


@dataclass(frozen=True)
class Window:
    """The attention window of all layers; 0 where there is none."""

    section: str

    def read(self, reading: Reading) -> None:
        name = f"{self.section}.attention.sliding_window"
        size = reading.values.number(name, 0.0, least=0.0)
        reading.fields["window"] = reading.values.count(name, most=LARGEST_CONTEXT) if size else None

    def write(self, config: WindowConfig) -> Mapping[str, Any]:
        return {f"{self.section}.attention.sliding_window": config.window or 0}


class RotaryConfig(Protocol):
    """The config fields of rotary position embedding."""

    @property
    def rope_theta(self) -> float: ...
    @property
    def rope_scaling(self) -> RopeScaling | None: ...


@dataclass(frozen=True)
class RopeSettings:
    """The RoPE settings. Comes after the heads and the context length. scaling_types: those llama.cpp supports here.
    factors: whether it reads tensors of frequency factors, as Llama 3.1's scaling needs.
    """

    section: str
    scaling_types: tuple[str, ...] = SCALING_TYPES
    factors: bool = True

    def read(self, reading: Reading) -> None:
        fields = reading.fields
        theta, scaling = read_rope(
            reading.values,
            self.section,
            fields.get("rotary_dim") or fields["head_dim"] or fields["dim"] // fields["n_heads"],
            reading.weights.checkpoint,
            context=fields["context_length"],
            scaling_types=self.scaling_types,
        )
        fields.update(rope_theta=theta, rope_scaling=scaling)

    def write(self, config: RotaryConfig) -> Mapping[str, Any]:
        scaling = config.rope_scaling
        if scaling is not None and scaling.kind == "llama3" and not self.factors:
            raise LuthierError(f"GGUF has no rope_scaling llama3 for {self.section}: write the model as hf")
        return write_rope(self.section, config.rope_theta, scaling, self.scaling_types)


def read_vocab_size(checkpoint: Checkpoint) -> int:
    """The vocabulary size: the rows of the embedding, since not every file has the setting."""
    shape = checkpoint.shapes().get(EMBEDDING, ())
    if len(shape) != 2:
        raise LuthierError(f"'{EMBEDDING}' is missing or not a matrix")
    return shape[0]


def is_tied(checkpoint: Checkpoint) -> bool:
    """Whether the embedding is also the output matrix: the file then has no separate one."""
    return OUTPUT not in checkpoint.shapes()


TIED_EMBEDDINGS: CustomSetting[object] = CustomSetting(
    lambda reading: {"tie_embeddings": is_tied(reading.weights.checkpoint)}
)


def is_tied_or_equal(checkpoint: Checkpoint) -> bool:
    """The same for files that may contain the embedding twice: as both matrices."""
    shapes = checkpoint.shapes()
    return is_tied(checkpoint) or (
        shapes[OUTPUT] == shapes.get(EMBEDDING) and checkpoint.tensor(OUTPUT).equal(checkpoint.tensor(EMBEDDING))
    )


TIED_OR_EQUAL: CustomSetting[object] = CustomSetting(
    lambda reading: {"tie_embeddings": is_tied_or_equal(reading.weights.checkpoint)}
)


def embedding_rules(tied: bool) -> list[Rule]:
    """The embedding and the output matrix, where llama.cpp wants both, of tied models too."""
    if tied:
        return [Rule((EMBEDDING, OUTPUT), "embedding.weight", Twice())]
    return [Rule(EMBEDDING, "embedding.weight"), Rule(OUTPUT, "output.weight")]


def has_bias(checkpoint: Checkpoint, part: str) -> bool:
    """Whether the first layer has a bias in a module; GGUF has no setting for it. part: prefix of the tensor's name."""
    return any(name.startswith(f"blk.0.{part}") and name.endswith(".bias") for name in checkpoint.shapes())


def read_rope(
    settings: CheckedValues,
    section: str,
    head_dim: int,
    checkpoint: Checkpoint,
    *,
    context: int,
    scaling_types: tuple[str, ...] = SCALING_TYPES,
) -> tuple[float, RopeScaling | None]:
    """(rope_theta, scaling), as llama.cpp interprets a file. context: the setting `context_length`.

    In files that Luthier has not written, Llama 3.1's scaling is inferred from the tensor of factors.
    """
    theta = settings.number(f"{section}.rope.freq_base", 10_000.0)
    name = f"{section}.rope.scaling."
    settings.require_one_of(f"{name}type", None, *scaling_types)
    # llama.cpp's converter names no type for Phi's factors, and says the context trained on where nothing is scaled
    has_factors = LONG_FACTORS in checkpoint.shapes() and "longrope" in scaling_types
    kind = settings.value(f"{name}type", "longrope" if has_factors else "linear")
    settings.ignore(f"{name}original_context_length")
    legacy = settings.number(f"{section}.rope.scale_linear", 0.0, least=0.0)
    factor = settings.number(f"{name}factor", legacy, least=0.0) or 1.0
    attention = settings.number(f"{name}attn_factor", 1.0)
    settings.require_one_of(f"{name}yarn_attn_factor", None, 1.0)
    settings.require_one_of(f"{name}yarn_ext_factor", None, -1.0, 1.0 if kind == "yarn" else 0.0)
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
            return theta, RopeScaling(factor, kind="linear", attention_factor=attention_factor_field(attention))
    scaling = read_llama3(settings, head_dim, theta, checkpoint)
    if attention != 1:
        scaling = replace(scaling or RopeScaling(1.0, kind="linear"), attention_factor=attention)
    return theta, scaling


def attention_factor_field(attention: float) -> float:
    """`RopeScaling.attention_factor` of a file's factor: 0 stands for the default, 1."""
    return 0.0 if attention == 1 else attention


def read_yarn(
    settings: CheckedValues, section: str, theta: float, factor: float, attention: float, context: int
) -> RopeScaling:
    """YaRN's settings. llama.cpp multiplies the paper's attention factor by the file's."""
    if theta <= 1:
        raise LuthierError(f"the settings: '{section}.rope.freq_base' is {theta:g}: with yarn it must be above 1")
    of_all = settings.number(f"{section}.rope.scaling.yarn_log_multiplier", 0.0, least=0.0)
    magnitude = attention * yarn_magnitude(factor) / (yarn_magnitude(factor, of_all) if of_all else 1.0)
    default = attention == 1 and not of_all
    return RopeScaling(
        factor,
        original_context_length=settings.count(
            f"{section}.rope.scaling.original_context_length", context, most=LARGEST_CONTEXT
        ),
        kind="yarn",
        attention_factor=settings.number(LUTHIER_ATTENTION_FACTOR, 0.0 if default else magnitude, least=0.0),
        beta_fast=settings.number(f"{section}.rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=settings.number(f"{section}.rope.scaling.yarn_beta_slow", 1.0),
    )


def read_longrope(
    settings: CheckedValues, section: str, head_dim: int, attention: float, context: int, checkpoint: Checkpoint
) -> RopeScaling:
    """LongRoPE's settings, whose factors are stored as tensors."""
    lists = []
    for name in (SHORT_FACTORS, LONG_FACTORS):
        if checkpoint.shapes().get(name) != (head_dim // 2,):
            raise LuthierError(f"'{name}' is missing, or not of {head_dim // 2} numbers: longrope needs it")
        lists.append(tuple(float(f"{number:.7g}") for number in checkpoint.tensor(name).float().tolist()))
        if not all(0 < number < LARGEST_NUMBER for number in lists[-1]):
            raise LuthierError(f"'{name}' holds numbers that are not above 0")
    original = settings.count(f"{section}.rope.scaling.original_context_length", context, most=LARGEST_CONTEXT)
    return RopeScaling(
        settings.number(LUTHIER_FACTOR, context / original),
        original_context_length=max(2, original),
        kind="longrope",
        attention_factor=settings.number(LUTHIER_ATTENTION_FACTOR, attention, least=0.0),
        short_factors=lists[0],
        long_factors=lists[1],
    )


def read_llama3(settings: CheckedValues, head_dim: int, theta: float, checkpoint: Checkpoint) -> RopeScaling | None:
    """Llama 3.1's scaling, from Luthier's own settings or inferred from the tensor of factors."""
    if LUTHIER_FACTOR in settings.values:
        low = settings.number("luthier.rope_scaling.low_freq_factor")
        high = settings.number("luthier.rope_scaling.high_freq_factor")
        if low > high:
            raise LuthierError(f"the settings: low_freq_factor {low:g} is above high_freq_factor {high:g}")
        original = settings.count("luthier.rope_scaling.original_context_length", most=LARGEST_CONTEXT)
        return RopeScaling(settings.number(LUTHIER_FACTOR), low, high, original)
    if ROPE_FACTORS not in checkpoint.shapes():
        return None
    return infer_llama3_scaling(checkpoint.tensor(ROPE_FACTORS), head_dim, theta)


def write_rope(
    section: str, theta: float, scaling: RopeScaling | None, scaling_types: tuple[str, ...] = SCALING_TYPES
) -> dict[str, Any]:
    """The RoPE settings. Raises a LuthierError for a scaling that llama.cpp does not support."""
    base: dict[str, Any] = {f"{section}.rope.freq_base": theta}
    if scaling is None:
        return base
    kind, name, magnitude = scaling.kind, f"{section}.rope.scaling.", scaling.magnitude
    if kind == "dynamic" or (kind == "longrope" and kind not in scaling_types):
        raise LuthierError(f"GGUF has no setting for rope_scaling {kind} of {section}: write the model as hf")
    if kind == "yarn" and not scaling.truncate:
        raise LuthierError("GGUF has no setting for yarn's truncate = false: write the model as hf")
    attention = magnitude / yarn_magnitude(scaling.factor) if kind == "yarn" else magnitude
    if attention != 1:
        base[f"{name}attn_factor"] = attention
    if kind == "longrope" or (kind == "yarn" and scaling.attention_factor):
        base[LUTHIER_ATTENTION_FACTOR] = scaling.attention_factor
    if kind == "llama3":
        return base | {
            LUTHIER_FACTOR: scaling.factor,
            "luthier.rope_scaling.low_freq_factor": scaling.low_freq_factor,
            "luthier.rope_scaling.high_freq_factor": scaling.high_freq_factor,
            "luthier.rope_scaling.original_context_length": scaling.original_context_length,
        }
    base[f"{name}type"] = kind
    if kind == "longrope":  # llama.cpp would divide by a factor as well
        return base | {
            LUTHIER_FACTOR: scaling.factor,
            f"{name}original_context_length": scaling.original_context_length,
        }
    base[f"{name}factor"] = scaling.factor
    if kind == "yarn":
        base[f"{name}original_context_length"] = scaling.original_context_length
        base[f"{name}yarn_beta_fast"] = scaling.beta_fast
        base[f"{name}yarn_beta_slow"] = scaling.beta_slow
    return base


def infer_llama3_scaling(factors: Tensor, head_dim: int, theta: float) -> RopeScaling | None:
    """The published models' scaling that gives these frequency factors (D/2,), with any `factor`; None if all are 1."""
    if bool((factors == 1).all()):
        return None
    if head_dim % 2 == 0 and factors.shape == (head_dim // 2,) and 1 < (factor := float(factors.max())) < 2**53:
        for low, high, original in KNOWN_LLAMA3_SCALINGS:
            scaling = RopeScaling(factor, low, high, original)
            if torch.allclose(factors.float(), rope_factors(head_dim, theta, scaling), rtol=1e-4):
                return scaling
    raise LuthierError(f"'{ROPE_FACTORS}' is not the RoPE scaling of any of Meta's Llama models")


def rope_factors(head_dim: int, theta: float, scaling: RopeScaling) -> Tensor:
    """The factor by which each pair's frequency is divided, (D/2,)."""
    return Rope(head_dim, theta).frequencies() / Rope(head_dim, theta, scaling).frequencies()


def rope_rules(head_dim: int, theta: float, scaling: RopeScaling | None) -> list[Rule]:
    """The rules of the tensors of RoPE factors; empty where the scaling needs none."""
    if scaling is None:
        return []
    if scaling.kind == "longrope":
        lists = {SHORT_FACTORS: scaling.short_factors, LONG_FACTORS: scaling.long_factors}
        return [Rule(name, (), Computed(torch.tensor(factors))) for name, factors in lists.items()]
    if scaling.kind == "llama3":
        return [Rule(ROPE_FACTORS, (), Computed(rope_factors(head_dim, theta, scaling)))]
    return []


def warn_unused(settings: CheckedValues, section: str) -> None:
    """Warn about the architecture's settings that are not understood, after all others have been read."""
    settings.ignore(*(f"{section}.{name}" for name in IGNORED_KEYS))
    settings.ignore(*(name for name in settings.values if not name.startswith(f"{section}.")))
    settings.warn_unused()
