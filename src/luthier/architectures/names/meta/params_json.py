"""Meta's params.json: what its files share.

The width of a feed-forward is not written there but reckoned, from dim, `ffn_dim_multiplier` and `multiple_of`. And it
does not say everything: how long the context is, and how far rotary positions are stretched, are then what the
published models have. What we write goes under Meta's names, as far as it has any, and the rest into an object,
`luthier`, that Meta's programs do not look at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.architectures.names.settings import LARGEST_CONTEXT, ConfigJson
from luthier.errors import LuthierError
from luthier.model.rope_scaling import RopeScaling

OURS = "luthier"
ORIGINAL_CONTEXT = 8192  # tokens, and low_freq_factor 1: written nowhere, both are fixed in Meta's programs
LARGEST_MULTIPLE = 2**16


def settings_of(params: Mapping[str, Any]) -> ConfigJson:
    """The settings of a language model in a params.json, which some files have under "model"."""
    settings = ConfigJson(params, "params.json")
    if "model" in settings.values:
        settings = settings.section("model")
    if settings.values.get("quantization_args") is not None:
        raise LuthierError("params.json: weights quantised by Meta cannot be read; take the model in bfloat16")
    if settings.values.get("vision_chunk_size", -1) != -1:
        raise LuthierError("params.json: Llama 3.2's models that see pictures are not supported; take a text model")
    return settings


def swiglu_width(four_dims: int, multiplier: float, multiple_of: int, *, share: float = 1.0) -> int:
    """The width of a feed-forward: two thirds of `four_dims`, times the multiplier, divided by share, rounded up."""
    width = int(multiplier * int(2 * four_dims / 3))
    width = int(width / share)
    return width + -width % multiple_of


def multiplier_for(hidden_dim: int, four_dims: int, multiple_of: int) -> float | None:
    """The shortest multiplier that gives back this width; None where none is needed."""
    if swiglu_width(four_dims, 1.0, multiple_of) == hidden_dim:
        return None
    exact = (hidden_dim + 0.5) / int(2 * four_dims / 3)
    candidates = (round(exact, digits) for digits in range(1, 18))
    return next(value for value in candidates if swiglu_width(four_dims, value, multiple_of) == hidden_dim)


def multiple_in(*widths: int) -> int:
    """The largest power of two, up to 4096, that divides all these widths."""
    return next(1 << power for power in range(12, -1, -1) if not any(width % (1 << power) for width in widths))


def read_scaling(settings: ConfigJson, factor: float, high: float) -> RopeScaling | None:
    """The stretch of the rotary positions. factor and high: what they are where the file does not say it."""
    settings.pass_over("rope_scaling_factor", "rope_high_freq_factor")
    if not settings.flag("use_scaled_rope", False):
        return None
    ours = settings.section(OURS)
    low, high = ours.number("rope_low_freq_factor", 1.0), settings.number("rope_high_freq_factor", high)
    if low > high:
        raise LuthierError(f"params.json: rope_low_freq_factor {low:g} is above rope_high_freq_factor {high:g}")
    return RopeScaling(
        settings.number("rope_scaling_factor", factor),
        low,
        high,
        ours.count("rope_original_context_length", ORIGINAL_CONTEXT, most=LARGEST_CONTEXT),
    )


def write_scaling(scaling: RopeScaling | None) -> dict[str, Any]:
    """The settings that say it in Meta's words."""
    if scaling is None:
        return {"use_scaled_rope": False}
    if scaling.kind != "llama3" or scaling.magnitude != 1:
        what = f"rope_scaling {scaling.kind}" if scaling.kind != "llama3" else "an attention factor"
        raise LuthierError(f"params.json has no setting for {what}: write the model as hf")
    return {
        "use_scaled_rope": True,
        "rope_scaling_factor": scaling.factor,
        "rope_high_freq_factor": scaling.high_freq_factor,
    }


def our_scaling(scaling: RopeScaling | None) -> dict[str, Any]:
    """What of it Meta has no words for."""
    if scaling is None:
        return {}
    return {
        "rope_low_freq_factor": scaling.low_freq_factor,
        "rope_original_context_length": scaling.original_context_length,
    }
