"""Hugging Face's config.json: what all families share, rotary settings and settings without effect.

Two forms are read: transformers 5 (`rope_parameters`, `dtype`) and 4 (`rope_theta`, `rope_scaling`, `torch_dtype`).
Both are written for the rotary settings: transformers 4 would take a missing `rope_theta` for 10,000 without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from luthier.architectures.checked_values import LARGEST_CONTEXT, LARGEST_HEAD, CheckedValues
from luthier.architectures.settings import Entry, Reading, SettingList, Written
from luthier.errors import LuthierError
from luthier.model.rope_scaling import RopeScaling, yarn_magnitude

KINDS = ("default", "llama3", "linear", "dynamic", "yarn", "longrope")
OF_KINDS = {
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
EVERYWHERE = ("rope_type", "type", "rope_theta", "partial_rotary_factor", "finetuned")  # the last says nothing

WRAPPERS = ("module.", "_orig_mod.")  # before the names of models saved from DistributedDataParallel, torch.compile
# settings that change nothing of what a decoder computes: of transformers' PreTrainedConfig, of training, and of others
NOTHING = """
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
PASSED_OVER = NOTHING.split()

C = TypeVar("C")


def settings(
    config: type[C],
    name: str,
    model_type: str,
    *entries: Entry[C],
    opens: Callable[[Mapping[str, Any]], CheckedValues] = CheckedValues,
) -> SettingList[C]:
    """The list of settings in a config.json. name: of the class in `transformers`. opens: find the settings in it."""
    named: Entry[C] = Written({"architectures": [name], "model_type": model_type})
    return SettingList(config, (named, *entries), opens, mention_others)


class RotaryConfig(Protocol):
    """The fields of rotary positions."""

    @property
    def context_length(self) -> int: ...
    @property
    def rope_theta(self) -> float: ...
    @property
    def rope_scaling(self) -> RopeScaling | None: ...


@dataclass(frozen=True)
class RopeSettings:
    """The context length and rotary positions. theta, context: the defaults of `transformers`."""

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


def read_context(settings: CheckedValues, context: int, scaling: RopeScaling | None) -> int:
    """How many tokens the model is made for: with a scaling that grows with the text, more than the file names."""
    if scaling is None or scaling.kind != "dynamic":
        return context
    return settings.count("context_length", max(context, int(context * scaling.factor)), most=LARGEST_CONTEXT)


def mention_others(settings: CheckedValues) -> None:
    """Remark on the settings that are not understood, once all the others are read."""
    settings.pass_over(*PASSED_OVER, *(name for name in settings.values if name.startswith("_")))
    settings.mention_others()


def read_rope(settings: CheckedValues, *, theta: float, context: int) -> tuple[float, RopeScaling | None]:
    """(rope_theta, scaling), from either form. theta: what a missing one means. context: max_position_embeddings."""
    settings.only("partial_rotary_factor", 1.0)
    settings.pass_over("rope_scaling", "rope_parameters")
    rope = settings.section("rope_scaling")
    if not rope.values:
        rope = settings.section("rope_parameters")
    base = rope.number("rope_theta", settings.number("rope_theta", theta))
    rope.only("partial_rotary_factor", 1.0)
    if any(isinstance(value, dict) for value in rope.values.values()):
        raise LuthierError("config.json: rotary settings that differ by layer are not supported")
    name = "rope_type" if "rope_type" in rope.values else "type"
    rope.only(name, *KINDS)
    kind = rope.values.get(name, "default")
    # beside the rotary settings it comes first, in transformers too (Phi 3 has it there)
    original = settings.count(
        "original_max_position_embeddings",
        rope.count("original_max_position_embeddings", context, most=LARGEST_CONTEXT),
        most=LARGEST_CONTEXT,
    )
    rope.pass_over(*EVERYWHERE, *OF_KINDS[kind])
    rope.mention_others(f"the rotary settings, of rope_type {kind}")
    match kind:
        case "llama3":
            low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
            if low > high:
                raise LuthierError(f"config.json: low_freq_factor {low:g} is above high_freq_factor {high:g}")
            return base, RopeScaling(rope.number("factor"), low, high, original)
        case "linear":
            return base, RopeScaling(rope.number("factor"), kind="linear")
        case "dynamic":  # the context that the file names is the one trained on
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
    """YaRN's settings. Where there are `mscale` and `mscale_all_dim`, the attention factor follows from them."""
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
    """The settings of positions in both forms. context: that of the config."""
    rope = {"rope_type": "default"} if scaling is None else written_scaling(scaling)
    positions = {"max_position_embeddings": context}
    if scaling is not None and scaling.kind == "dynamic":  # there, the context is the one trained on
        positions = {"max_position_embeddings": scaling.original_context_length, "context_length": context}
    return {
        **positions,
        "rope_parameters": {"rope_theta": theta, **rope},
        "rope_theta": theta,
        "rope_scaling": rope if scaling is not None else None,
    }


def written_scaling(scaling: RopeScaling) -> dict[str, Any]:
    """A scaling in the words of transformers. A LuthierError for one that it has none for."""
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
        if kind == "linear" and scaling.factor == 1:  # of YaRN with factor 1 nothing but this is left
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
