"""Meta's params.json: settings that Llama's and Llama 4's files share.

The file has no width of the feed-forward, which is computed from dim, `ffn_dim_multiplier` and `multiple_of`. It has no
context length and no RoPE scaling factor either: those default to the published models'. Settings that Meta's format
lacks are written to an object `luthier`, which Meta's code ignores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from luthier.architectures.checked_values import LARGEST_CONTEXT, CheckedValues
from luthier.architectures.settings import CustomSetting, Entry, Reading, SettingList
from luthier.errors import LuthierError
from luthier.model.rope_scaling import RopeScaling

LUTHIER_SECTION = "luthier"
ORIGINAL_CONTEXT = 8192  # tokens; like low_freq_factor 1, hard-coded in Meta's code
LARGEST_MULTIPLE = 2**16

C = TypeVar("C")


def settings(config: type[C], *entries: Entry[C]) -> SettingList[C]:
    """The list of settings of a params.json. `vocab_size` is taken from the embedding: sharded files hold a shard's."""
    size: CustomSetting[object] = CustomSetting(lambda reading: {"vocab_size": reading.weights.vocab_size})
    return SettingList(config, (size, *entries), text_model_settings)


class RotaryConfig(Protocol):
    """The config fields of rotary position embedding."""

    @property
    def rope_scaling(self) -> RopeScaling | None: ...


@dataclass(frozen=True)
class ScalingSettings:
    """RoPE scaling in Meta's settings. LUTHIER_SCALING has the rest, for the section `luthier`.

    factor, high: defaults of the scaling factor and of high_freq_factor.
    """

    factor: Callable[[Reading], float]
    high: float

    def read(self, reading: Reading) -> None:
        reading.fields["rope_scaling"] = read_scaling(reading.values, self.factor(reading), self.high)

    def write(self, config: RotaryConfig) -> Mapping[str, Any]:
        return write_scaling(config.rope_scaling)


LUTHIER_SCALING: CustomSetting[RotaryConfig] = CustomSetting(
    lambda reading: {}, lambda config: luthier_scaling(config.rope_scaling)
)


def text_model_settings(params: Mapping[str, Any]) -> CheckedValues:
    """The language model's settings in a params.json; some files have them under "model"."""
    settings = CheckedValues(params, "params.json")
    if "model" in settings.values:
        settings = settings.section("model")
    if settings.values.get("quantization_args") is not None:
        raise LuthierError("params.json: weights quantized by Meta cannot be read; take the model in bfloat16")
    if settings.values.get("vision_chunk_size", -1) != -1:
        raise LuthierError("params.json: Llama 3.2's vision models are not supported; take a text model")
    return settings


def swiglu_width(four_dims: int, multiplier: float, multiple_of: int, *, share: float = 1.0) -> int:
    """Width of the feed-forward: 2/3 * four_dims * multiplier / share, rounded up to a multiple of `multiple_of`."""
    width = int(multiplier * int(2 * four_dims / 3))
    width = int(width / share)
    return width + -width % multiple_of


def find_ffn_dim_multiplier(hidden_dim: int, four_dims: int, multiple_of: int) -> float | None:
    """The `ffn_dim_multiplier` with the fewest digits that gives this width; None where none is needed."""
    if swiglu_width(four_dims, 1.0, multiple_of) == hidden_dim:
        return None
    exact = (hidden_dim + 0.5) / int(2 * four_dims / 3)
    candidates = (round(exact, digits) for digits in range(1, 18))
    return next(value for value in candidates if swiglu_width(four_dims, value, multiple_of) == hidden_dim)


def find_ffn_exp(hidden_dim: int, dim: int, multiplier: float, multiple_of: int) -> float | None:
    """The `ffn_exp` that gives this expert width; None where rounding makes it impossible."""
    near = round(1.5 * hidden_dim / multiplier)  # ffn_exp * dim
    steps = sorted((half / 2 for half in range(-8, 9)), key=abs)
    for expansion in ((near + step) / dim for step in steps):
        if swiglu_width(int(expansion * dim), multiplier, multiple_of) == hidden_dim:
            return expansion
    return None


def common_power_of_two(*widths: int) -> int:
    """The largest power of two, up to 4096, that divides all widths."""
    return next(1 << power for power in range(12, -1, -1) if not any(width % (1 << power) for width in widths))


def read_scaling(settings: CheckedValues, factor: float, high: float) -> RopeScaling | None:
    """The RoPE scaling. factor, high: defaults of the scaling factor and of high_freq_factor."""
    settings.ignore("rope_scaling_factor", "rope_high_freq_factor")
    if not settings.flag("use_scaled_rope", False):
        return None
    own = settings.section(LUTHIER_SECTION)
    low, high = own.number("rope_low_freq_factor", 1.0), settings.number("rope_high_freq_factor", high)
    if low > high:
        raise LuthierError(f"params.json: rope_low_freq_factor {low:g} is above rope_high_freq_factor {high:g}")
    return RopeScaling(
        settings.number("rope_scaling_factor", factor),
        low,
        high,
        own.count("rope_original_context_length", ORIGINAL_CONTEXT, most=LARGEST_CONTEXT),
    )


def write_scaling(scaling: RopeScaling | None) -> dict[str, Any]:
    """Meta's settings of a RoPE scaling. Raises a LuthierError for one that they cannot express."""
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


def luthier_scaling(scaling: RopeScaling | None) -> dict[str, Any]:
    """The settings of a RoPE scaling that are hard-coded in Meta's code."""
    if scaling is None:
        return {}
    return {
        "rope_low_freq_factor": scaling.low_freq_factor,
        "rope_original_context_length": scaling.original_context_length,
    }
