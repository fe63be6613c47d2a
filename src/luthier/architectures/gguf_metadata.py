"""The metadata of GGUF files: what all families share, the vocabulary, heads, and rotary positions.

Whether there is an output matrix, and how rotary positions are scaled, is found from the tensors alone. What llama.cpp
has no key for is written with keys of our own, "luthier.NAME", which other readers ignore.

llama.cpp has no setting for Llama 3.1's stretch of rotary positions. Its files hold a tensor of factors instead, one
for each pair, that divide the frequencies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from luthier.architectures.checked_values import LARGEST_CONTEXT, LARGEST_DEPTH, LARGEST_NUMBER, CheckedValues
from luthier.architectures.settings import Entry, Group, HeadDim, Reading, SettingList, Written, head_dim
from luthier.errors import LuthierError
from luthier.formats.names import Checkpoint, Derived, Rule
from luthier.model.rope import Rope
from luthier.model.rope_scaling import RopeScaling, yarn_magnitude

EMBEDDING, OUTPUT, ROPE_FACTORS = "token_embd.weight", "output.weight", "rope_freqs.weight"
SHORT_FACTORS, LONG_FACTORS = "rope_factors_short.weight", "rope_factors_long.weight"
KINDS = ("none", "linear", "yarn", "longrope")  # of scaling, in llama.cpp
OUR_FACTOR, OUR_ATTENTION_FACTOR = "luthier.rope_scaling.factor", "luthier.rope_scaling.attention_factor"
PASSED_OVER = ("vocab_size", "tensor_data_layout", "rope.scaling.finetuned", "expert_used_count")  # without effect
# (low_freq_factor, high_freq_factor, original context) of Llama 3.1 to 3.3, and of Llama 4 Scout
PUBLISHED = ((1.0, 4.0, 8192), (1.0, 1.0, 8192))

C = TypeVar("C")


def settings(config: type[C], section: str, *entries: Entry[C]) -> SettingList[C]:
    """The list of settings in a GGUF file. section: what llama.cpp calls the architecture."""
    named: Entry[C] = Written({"general.architecture": section})
    return SettingList(
        config,
        (named, *entries),
        lambda fields: CheckedValues(fields, "the settings"),
        lambda values: mention_others(values, section),
    )


class Sizes(Protocol):
    """The fields of vocabulary and depth."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def n_layers(self) -> int: ...


@dataclass(frozen=True)
class VocabSize:
    """The entries of the vocabulary. Written, and read from the embedding: not every file has the setting."""

    section: str

    def read(self, reading: Reading) -> None:
        reading.fields["vocab_size"] = read_vocab_size(reading.weights.checkpoint)

    def write(self, config: Sizes) -> Mapping[str, Any]:
        return {f"{self.section}.vocab_size": config.vocab_size}


@dataclass(frozen=True)
class Depth:
    """The number of layers: at most that of the tensors, so that a wrong one costs nothing."""

    section: str

    def read(self, reading: Reading) -> None:
        most = min(LARGEST_DEPTH, len(reading.weights.checkpoint.shapes()))
        reading.fields["n_layers"] = reading.values.count(f"{self.section}.block_count", most=most)

    def write(self, config: Sizes) -> Mapping[str, Any]:
        return {f"{self.section}.block_count": config.n_layers}


@dataclass(frozen=True)
class LayerNumbers:
    """Numbers of layers as a text with commas between: an empty array could not be written. None is left out."""

    name: str
    field: str

    def read(self, reading: Reading) -> None:
        text = reading.values.value(self.name)
        numbers = str(text).split(",") if text not in (None, "") else []
        if len(numbers) > LARGEST_DEPTH or not all(number.isdecimal() and len(number) < 5 for number in numbers):
            raise LuthierError(
                f"the settings: '{self.name}' must be numbers of layers with commas between, it is {text!r:.60}"
            )
        reading.fields[self.field] = None if text is None else tuple(map(int, numbers))

    def write(self, config: object) -> Mapping[str, Any]:
        numbers = getattr(config, self.field)
        return {} if numbers is None else {self.name: ",".join(map(str, numbers))}


class RotaryHeads(HeadDim, Protocol):
    """The fields of attention with rotary positions."""

    @property
    def n_kv_heads(self) -> int: ...


@dataclass(frozen=True)
class Heads:
    """The heads of attention with rotary positions. Stands after dim."""

    section: str

    def read(self, reading: Reading) -> None:
        values, fields, name = reading.values, reading.fields, f"{self.section}.attention."
        n_heads = values.count(f"{name}head_count")
        size = values.count(f"{name}key_length", max(1, fields["dim"] // n_heads))
        values.only(f"{name}value_length", size)
        values.only(f"{self.section}.rope.dimension_count", size)
        fields.update(
            n_heads=n_heads,
            n_kv_heads=values.count(f"{name}head_count_kv", n_heads),
            head_dim=None if size * n_heads == fields["dim"] else size,
        )

    def write(self, config: RotaryHeads) -> Mapping[str, Any]:
        size = head_dim(config)
        return {
            f"{self.section}.attention.head_count": config.n_heads,
            f"{self.section}.attention.head_count_kv": config.n_kv_heads,
            f"{self.section}.attention.key_length": size,
            f"{self.section}.attention.value_length": size,
            f"{self.section}.rope.dimension_count": size,
        }


class RotaryConfig(Protocol):
    """The fields of rotary positions."""

    @property
    def rope_theta(self) -> float: ...
    @property
    def rope_scaling(self) -> RopeScaling | None: ...


@dataclass(frozen=True)
class RopeSettings:
    """Rotary positions. Stands after the heads and the context length. kinds: of scaling, in llama.cpp."""

    section: str
    kinds: tuple[str, ...] = KINDS

    def read(self, reading: Reading) -> None:
        fields = reading.fields
        theta, scaling = read_rope(
            reading.values,
            self.section,
            fields["head_dim"] or fields["dim"] // fields["n_heads"],
            reading.weights.checkpoint,
            context=fields["context_length"],
            kinds=self.kinds,
        )
        fields.update(rope_theta=theta, rope_scaling=scaling)

    def write(self, config: RotaryConfig) -> Mapping[str, Any]:
        return write_rope(self.section, config.rope_theta, config.rope_scaling, self.kinds)


def read_vocab_size(checkpoint: Checkpoint) -> int:
    """Entries of the vocabulary: the rows of the embedding, since not every file has a setting that says it."""
    shape = checkpoint.shapes().get(EMBEDDING, ())
    if len(shape) != 2:
        raise LuthierError(f"'{EMBEDDING}' is missing, or no matrix")
    return shape[0]


def is_tied(checkpoint: Checkpoint) -> bool:
    """Whether the embedding is the output matrix too: then the file has no other."""
    return OUTPUT not in checkpoint.shapes()


TIED: Group[object] = Group(lambda reading: {"tie_embeddings": is_tied(reading.weights.checkpoint)})


def has_biases(checkpoint: Checkpoint, part: str) -> bool:
    """Whether the first layer has a bias in this part: the tensors alone say it."""
    return any(name.startswith(f"blk.0.{part}") and name.endswith(".bias") for name in checkpoint.shapes())


def read_rope(
    settings: CheckedValues,
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
    settings: CheckedValues, section: str, theta: float, factor: float, attention: float, context: int
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
    settings: CheckedValues, section: str, head_dim: int, attention: float, context: int, checkpoint: Checkpoint
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


def read_llama3(settings: CheckedValues, head_dim: int, theta: float, checkpoint: Checkpoint) -> RopeScaling | None:
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


def mention_others(settings: CheckedValues, section: str) -> None:
    """Say which settings of the architecture are not understood, once all the others are read."""
    settings.pass_over(*(f"{section}.{name}" for name in PASSED_OVER))
    settings.pass_over(*(name for name in settings.values if not name.startswith(f"{section}.")))
    settings.mention_others()
