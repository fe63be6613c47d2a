"""Hugging Face's config.json: what all families share, RoPE settings and settings without effect.

The formats of transformers 5 (`rope_parameters`, `dtype`) and 4 (`rope_theta`, `rope_scaling`, `torch_dtype`) are read.
RoPE settings are written in both: transformers 4 silently takes a missing `rope_theta` as 10,000.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from luthier.architectures.checked_values import LARGEST_CONTEXT, LARGEST_HEAD, CheckedValues
from luthier.architectures.settings import Entry, HeadDim, Reading, SettingList, WriteOnly, head_dim
from luthier.errors import LuthierError
from luthier.model.rope_scaling import RopeScaling, yarn_magnitude

ROPE_TYPES = ("default", "llama3", "linear", "dynamic", "yarn", "longrope")
ROPE_KEYS = {
    "default": (),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": (
        *("factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"),
        *("mscale", "mscale_all_dim", "truncate"),
    ),
    "longrope": ("factor", "original_max_position_embeddings", "attention_factor", "short_factor", "long_factor"),
}
COMMON_ROPE_KEYS = ("rope_type", "type", "rope_theta", "partial_rotary_factor", "finetuned")  # the last has no effect

WRAPPERS = ("module.", "_orig_mod.")  # prefixes of weights saved from DistributedDataParallel and torch.compile
# settings that do not change what a decoder computes: of transformers' PreTrainedConfig, of training, of other tools
KEYS_WITHOUT_EFFECT = """
    architectures model_type auto_map dtype torch_dtype transformers_version use_cache initializer_range pretraining_tp
    bos_token_id eos_token_id pad_token_id sep_token_id decoder_start_token_id tokenizer_class prefix vocab_size
    output_attentions output_hidden_states output_scores return_dict return_dict_in_generate id2label label2id
    num_labels problem_type task_specific_params finetuning_task is_encoder_decoder is_decoder chunk_size_feed_forward
    cross_attention_hidden_size tie_encoder_decoder pruned_heads gradient_checkpointing torchscript tf_legacy_loss
    use_bfloat16 attn_implementation use_flash_attention max_length min_length do_sample early_stopping num_beams
    num_beam_groups diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty
    no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences forced_bos_token_id
    forced_eos_token_id remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
    is_llama_config transformers.js_config unsloth_version unsloth_fixed model_name for_llm_compressor
"""
IGNORED_KEYS = KEYS_WITHOUT_EFFECT.split()

C = TypeVar("C")


def settings(
    config: type[C],
    name: str,
    model_type: str,
    *entries: Entry[C],
    find_settings: Callable[[Mapping[str, Any]], CheckedValues] = CheckedValues,
) -> SettingList[C]:
    """The list of settings of a config.json.

    name: of the class in `transformers`. find_settings: gets the model's settings out of the file's JSON object.
    """
    named: Entry[C] = WriteOnly({"architectures": [name], "model_type": model_type})
    return SettingList(config, (named, *entries), find_settings, warn_unused)


class RotaryConfig(Protocol):
    """The config fields of rotary position embedding."""

    @property
    def context_length(self) -> int: ...
    @property
    def rope_theta(self) -> float: ...
    @property
    def rope_scaling(self) -> RopeScaling | None: ...


@dataclass(frozen=True)
class RopeSettings:
    """The context length and the RoPE settings. theta, context: the defaults of `transformers`."""

    theta: float
    context: int

    def read(self, reading: Reading) -> None:
        values = reading.values
        context = values.count("max_position_embeddings", self.context, most=LARGEST_CONTEXT)
        theta, scaling = read_rope(values, theta=self.theta, context=context)
        length = read_context(values, context, scaling)
        reading.fields.update(context_length=length, rope_theta=theta, rope_scaling=scaling)

    def write(self, config: RotaryConfig) -> Mapping[str, Any]:
        return write_rope(config.rope_theta, config.rope_scaling, config.context_length)


class PartialConfig(RotaryConfig, HeadDim, Protocol):
    """The config fields of RoPE on a part of each head."""

    @property
    def rotary_dim(self) -> int | None: ...


@dataclass(frozen=True)
class PartialRopeSettings:
    """The same where RoPE rotates only a part of each head. Comes after the heads in the list.

    fraction: the default of the part that is rotated. fraction_name, theta_name: keys in files of transformers 4.
    """

    theta: float
    context: int
    fraction: float
    fraction_name: str = "partial_rotary_factor"
    theta_name: str = "rope_theta"

    def read(self, reading: Reading) -> None:
        values, fields = reading.values, reading.fields
        context = values.count("max_position_embeddings", self.context, most=LARGEST_CONTEXT)
        theta, scaling = read_rope(
            values, theta=values.number(self.theta_name, self.theta), context=context, partial=True
        )
        fraction = values.number(self.fraction_name, self.fraction)
        for section in ("rope_scaling", "rope_parameters"):
            fraction = values.section(section).number("partial_rotary_factor", fraction)
        size = fields.get("head_dim") or fields["dim"] // fields["n_heads"]
        rotated = int(size * fraction)
        if not 2 <= rotated <= size or rotated % 2:
            raise LuthierError(
                f"config.json: '{self.fraction_name}' {fraction:g} rotates {rotated} of {size} dimensions of a head: "
                "it must be an even number of them"
            )
        fields.update(
            context_length=read_context(values, context, scaling),
            rope_theta=theta,
            rope_scaling=scaling,
            rotary_dim=None if rotated == size else rotated,
        )

    def write(self, config: PartialConfig) -> Mapping[str, Any]:
        fraction = fraction_of(config.rotary_dim or head_dim(config), head_dim(config))
        settings = write_rope(config.rope_theta, config.rope_scaling, config.context_length)
        for section in ("rope_parameters", "rope_scaling"):
            if settings.get(section):
                settings[section] = {**settings[section], "partial_rotary_factor": fraction}
        return {**settings, self.fraction_name: fraction, self.theta_name: config.rope_theta}


def fraction_of(part: int, whole: int) -> float:
    """The fraction that gives this part again for readers that multiply by it and round down."""
    fraction = part / whole
    return fraction if int(whole * fraction) == part else math.nextafter(fraction, 1)


def read_context(settings: CheckedValues, context: int, scaling: RopeScaling | None) -> int:
    """The context length in tokens. With dynamic scaling it is larger than `max_position_embeddings`."""
    if scaling is None or scaling.kind != "dynamic":
        return context
    return settings.count("context_length", max(context, int(context * scaling.factor)), most=LARGEST_CONTEXT)


def warn_unused(settings: CheckedValues) -> None:
    """Warn about settings that are not understood, after all others have been read."""
    settings.ignore(*IGNORED_KEYS, *(name for name in settings.values if name.startswith("_")))
    settings.warn_unused()


def read_rope(
    settings: CheckedValues, *, theta: float, context: int, partial: bool = False
) -> tuple[float, RopeScaling | None]:
    """(rope_theta, scaling), from either format. theta: the default. context: max_position_embeddings.

    partial: whether the caller reads how much of a head is rotated; else that must be all of it.
    """
    if not partial:
        settings.require_one_of("partial_rotary_factor", 1.0)
    settings.ignore("rope_scaling", "rope_parameters")
    rope = settings.section("rope_scaling")
    if not rope.values:
        rope = settings.section("rope_parameters")
    base = rope.number("rope_theta", settings.number("rope_theta", theta))
    if not partial:
        rope.require_one_of("partial_rotary_factor", 1.0)
    if any(isinstance(value, dict) for value in rope.values.values()):
        raise LuthierError("config.json: rotary settings that differ by layer are not supported")
    name = "rope_type" if "rope_type" in rope.values else "type"
    rope.require_one_of(name, *ROPE_TYPES)
    kind = rope.values.get(name, "default")
    # outside the RoPE settings it has precedence, as in transformers (Phi 3 has it there)
    original = settings.count(
        "original_max_position_embeddings",
        rope.count("original_max_position_embeddings", context, most=LARGEST_CONTEXT),
        most=LARGEST_CONTEXT,
    )
    rope.ignore(*COMMON_ROPE_KEYS, *ROPE_KEYS[kind])
    rope.warn_unused(f"the rotary settings, of rope_type {kind}")
    match kind:
        case "llama3":
            low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
            if low > high:
                raise LuthierError(f"config.json: low_freq_factor {low:g} is above high_freq_factor {high:g}")
            return base, RopeScaling(rope.number("factor"), low, high, original)
        case "linear":
            return base, RopeScaling(rope.number("factor"), kind="linear")
        case "dynamic":  # max_position_embeddings is the context length of training
            return base, RopeScaling(rope.number("factor"), original_context_length=context, kind="dynamic")
        case "yarn":
            return base, read_yarn(rope, base, original, context)
        case "longrope":
            return base, RopeScaling(
                rope.number("factor", context / original),
                original_context_length=max(2, original),
                kind="longrope",
                attention_factor=rope.number("attention_factor", 0.0, least=0.0),
                short_factors=rope.positive_numbers("short_factor", LARGEST_HEAD // 2),
                long_factors=rope.positive_numbers("long_factor", LARGEST_HEAD // 2),
            )
    return base, None


def read_yarn(rope: CheckedValues, theta: float, original: int, context: int) -> RopeScaling:
    """YaRN's settings. `mscale` and `mscale_all_dim`, where given, determine the attention factor."""
    if theta <= 1:
        raise LuthierError(f"config.json: 'rope_theta' is {theta:g}: with rope_type yarn it must be above 1")
    factor = rope.number("factor", context / original)
    scale, of_all = rope.finite("mscale", 0), rope.finite("mscale_all_dim", 0)
    attention = rope.number("attention_factor", 0.0, least=0.0)
    if not attention and scale > 0 and of_all > 0:
        attention = yarn_magnitude(factor, scale) / yarn_magnitude(factor, of_all)
    fast, slow = rope.number("beta_fast", 32.0), rope.number("beta_slow", 1.0)
    return RopeScaling(
        factor,
        original_context_length=original,
        kind="yarn",
        attention_factor=attention,
        beta_fast=fast,
        beta_slow=slow,
        truncate=rope.flag("truncate", True),
    )


def write_rope(theta: float, scaling: RopeScaling | None, context: int) -> dict[str, Any]:
    """The RoPE settings and the context length, in both formats. context: the config's context_length."""
    rope = {"rope_type": "default"} if scaling is None else scaling_to_json(scaling)
    positions = {"max_position_embeddings": context}
    if scaling is not None and scaling.kind == "dynamic":  # max_position_embeddings is the context length of training
        positions = {"max_position_embeddings": scaling.original_context_length, "context_length": context}
    return {
        **positions,
        "rope_parameters": {"rope_theta": theta, **rope},
        "rope_theta": theta,
        "rope_scaling": rope if scaling is not None else None,
    }


def scaling_to_json(scaling: RopeScaling) -> dict[str, Any]:
    """A scaling as transformers' settings. Raises a LuthierError for one that they cannot express."""
    kind, magnitude = scaling.kind, scaling.magnitude
    rope: dict[str, Any] = {"rope_type": kind, "factor": scaling.factor}
    original = {"original_max_position_embeddings": scaling.original_context_length}
    if kind == "yarn":
        return {
            **rope,
            **original,
            **({"attention_factor": magnitude} if scaling.attention_factor else {}),
            "beta_fast": scaling.beta_fast,
            "beta_slow": scaling.beta_slow,
            "truncate": scaling.truncate,
        }
    if kind == "longrope":
        factors = {"short_factor": list(scaling.short_factors), "long_factor": list(scaling.long_factors)}
        return {**rope, **original, **({"attention_factor": magnitude} if scaling.attention_factor else {}), **factors}
    if magnitude != 1:
        if kind == "linear" and scaling.factor == 1:  # the same as YaRN with factor 1
            return {**rope, "rope_type": "yarn", **original, "attention_factor": magnitude}
        raise LuthierError(
            f"config.json has no setting for the attention factor {magnitude:g} beside rope_type {kind}: "
            "write the model as gguf"
        )
    if kind == "llama3":
        return {
            **rope,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            **original,
        }
    return rope
