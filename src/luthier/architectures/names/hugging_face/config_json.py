"""The rotary settings of Hugging Face's config.json.

Two forms are read: transformers 5 (`rope_parameters`, `dtype`) and 4 (`rope_theta`, `rope_scaling`, `torch_dtype`).
Both are written for the rotary settings: transformers 4 would take a missing `rope_theta` for 10,000 without a word.
"""

from __future__ import annotations

from typing import Any

from luthier.architectures.names.settings import LARGEST_CONTEXT, ConfigJson
from luthier.errors import LuthierError
from luthier.model.rope import RopeScaling


def read_rope(settings: ConfigJson, *, theta: float) -> tuple[float, RopeScaling | None]:
    """(rope_theta, scaling), from either form. theta: what a missing one means."""
    settings.only("partial_rotary_factor", 1.0)
    rope = settings.section("rope_scaling")
    if not rope.values:
        rope = settings.section("rope_parameters")
    base = rope.number("rope_theta", settings.number("rope_theta", theta))
    rope.only("partial_rotary_factor", 1.0)
    if any(isinstance(value, dict) for value in rope.values.values()):
        raise LuthierError("config.json: rotary settings that differ by layer are not supported")
    kind = "rope_type" if "rope_type" in rope.values else "type"
    rope.only(kind, "default", "llama3")
    if rope.values.get(kind, "default") == "default":
        return base, None
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    if low > high:
        raise LuthierError(f"config.json: low_freq_factor {low:g} is above high_freq_factor {high:g}")
    context = settings.values.get("max_position_embeddings")
    original = rope.count("original_max_position_embeddings", context, most=LARGEST_CONTEXT)
    return base, RopeScaling(rope.number("factor"), low, high, original)


def write_rope(theta: float, scaling: RopeScaling | None) -> dict[str, Any]:
    """The rotary settings in both forms."""
    stretch = (
        {"rope_type": "default"}
        if scaling is None
        else {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context_length,
        }
    )
    return {
        "rope_parameters": {"rope_theta": theta, **stretch},
        "rope_theta": theta,
        "rope_scaling": stretch if scaling is not None else None,
    }
