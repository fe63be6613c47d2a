"""Meta's params.json: what its files share.

It does not hold the width of a feed-forward, which is computed from dim, `ffn_dim_multiplier` and `multiple_of`. Nor
does it hold the context length, or how far rotary positions are scaled: the defaults are those of the published models.
What Meta has no setting for is written to an object `luthier`, which Meta's programs ignore.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from luthier.architectures.checked_values import LARGEST_CONTEXT, CheckedValues
from luthier.architectures.settings import Entry, Group, Reading, SettingList
from luthier.errors import LuthierError
from luthier.model.rope_scaling import RopeScaling

OURS = "luthier"
ORIGINAL_CONTEXT = 8192  # tokens, and low_freq_factor 1: written nowhere, both are fixed in Meta's programs
LARGEST_MULTIPLE = 2**16

C = TypeVar("C")


def settings(config: type[C], *entries: Entry[C]) -> SettingList[C]:
    """The list of settings in a params.json. vocab_size, which in sharded models is that of a part, is no entry."""
    size: Group[object] = Group(lambda reading: {"vocab_size": reading.weights.vocab_size})
    return SettingList(config, (size, *entries), settings_of)


class RotaryConfig(Protocol):
    """The fields of rotary positions."""

    @property
    def rope_scaling(self) -> RopeScaling | None: ...


@dataclass(frozen=True)
class ScalingSettings:
    """The scaling of rotary positions, in Meta's settings. What they lack is in OUR_SCALING, for the section `luthier`.

    factor, high: the scaling factor and high_freq_factor where the file does not hold them.
    """

    factor: Callable[[Reading], float]
    high: float

    def read(self, reading: Reading) -> None:
        reading.fields["rope_scaling"] = read_scaling(reading.values, self.factor(reading), self.high)

    def write(self, config: RotaryConfig) -> Mapping[str, Any]:
        return write_scaling(config.rope_scaling)


OUR_SCALING: Group[RotaryConfig] = Group(lambda reading: {}, lambda config: our_scaling(config.rope_scaling))


def settings_of(params: Mapping[str, Any]) -> CheckedValues:
    """The settings of a language model in a params.json, which some files have under "model"."""
    settings = CheckedValues(params, "params.json")
    if "model" in settings.values:
        settings = settings.section("model")
    if settings.values.get("quantization_args") is not None:
        raise LuthierError("params.json: weights quantized by Meta cannot be read; take the model in bfloat16")
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


def expansion_for(hidden_dim: int, dim: int, multiplier: float, multiple_of: int) -> float | None:
    """The `ffn_exp` by which dim grows to this width of an expert; None where rounding lets none do so."""
    near = round(1.5 * hidden_dim / multiplier)  # ffn_exp * dim
    steps = sorted((half / 2 for half in range(-8, 9)), key=abs)
    for expansion in ((near + step) / dim for step in steps):
        if swiglu_width(int(expansion * dim), multiplier, multiple_of) == hidden_dim:
            return expansion
    return None


def multiple_in(*widths: int) -> int:
    """The largest power of two, up to 4096, that divides all these widths."""
    return next(1 << power for power in range(12, -1, -1) if not any(width % (1 << power) for width in widths))


def read_scaling(settings: CheckedValues, factor: float, high: float) -> RopeScaling | None:
    """The scaling of rotary positions. factor, high: where the file does not hold them."""
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
    """Meta's settings of a scaling. A LuthierError for one that they cannot express."""
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
    """The settings of a scaling that Meta's programs have fixed."""
    if scaling is None:
        return {}
    return {
        "rope_low_freq_factor": scaling.low_freq_factor,
        "rope_original_context_length": scaling.original_context_length,
    }
