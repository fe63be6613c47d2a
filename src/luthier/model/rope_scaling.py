"""RoPE scaling for contexts longer than the one trained on, as in published models.

Shapes: B batch, D head_dim.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from luthier.errors import UsageError

Kind = Literal["llama3", "linear", "dynamic", "yarn", "longrope"]
# the fields that each kind uses, besides `kind` and `attention_factor`
USED: dict[str, tuple[str, ...]] = {
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_context_length"),
    "linear": ("factor",),
    "dynamic": ("factor", "original_context_length"),
    "yarn": ("factor", "original_context_length", "beta_fast", "beta_slow", "truncate"),
    "longrope": ("factor", "original_context_length", "short_factors", "long_factors"),
}


@dataclass(frozen=True)
class RopeScaling:
    """How RoPE frequencies are changed for a context longer than the one trained on.

    llama3: wavelengths below original / high_freq_factor are kept, those above original / low_freq_factor multiplied by
    factor, those between interpolated (Llama 3.1; Llama 4 Scout has low = high = 1).
    linear: position interpolation, every frequency is divided by factor (arXiv 2306.15595).
    dynamic: theta grows with the sequence length once that exceeds the original ("dynamic NTK").
    yarn: frequencies of more than beta_fast rotations within the original context are kept, those of fewer than
    beta_slow divided by factor, with a linear ramp between (arXiv 2309.00071).
    longrope: each pair's frequency is divided by its own factor, from one of two lists (arXiv 2402.13753).
    """

    factor: float = 8.0
    """By how much the context is extended."""
    low_freq_factor: float = 1.0
    """llama3: rotations within the original context below which a frequency is divided by factor."""
    high_freq_factor: float = 4.0
    """llama3: rotations within the original context above which a frequency is kept."""
    original_context_length: int = 8192
    """Context length of training in tokens. (Not used by linear.)"""
    kind: Kind = "llama3"
    """The method of scaling."""
    attention_factor: float = 0.0
    """Multiplies queries and keys. 0: the paper's value (yarn 0.1 ln(factor) + 1, longrope
    sqrt(1 + ln(factor) / ln(original)), the others 1)."""
    beta_fast: float = 32.0
    """yarn: rotations within the original context above which a frequency is kept."""
    beta_slow: float = 1.0
    """yarn: rotations within the original context below which a frequency is divided by factor."""
    truncate: bool = True
    """yarn: round the ends of the ramp to whole pairs."""
    short_factors: tuple[float, ...] = ()
    """longrope: factors of each pair for sequences up to the original context."""
    long_factors: tuple[float, ...] = ()
    """longrope: factors of each pair for longer sequences."""

    def __post_init__(self) -> None:
        if self.kind not in USED:
            raise UsageError(f"rope_scaling.kind '{self.kind}' is unknown; there are {', '.join(USED)}")
        for field in fields(self):
            value = getattr(self, field.name)
            given = value != field.default and field.name not in ("kind", "attention_factor")
            if given and field.name not in USED[self.kind]:
                owners = " and ".join(kind for kind, names in USED.items() if field.name in names)
                raise UsageError(f"rope_scaling.{field.name} is for {owners}, not for {self.kind}: leave it out")
        positive = (self.factor, self.original_context_length, self.beta_fast, self.beta_slow)
        if min(*positive, *self.short_factors, *self.long_factors) <= 0 or self.attention_factor < 0:
            raise UsageError("rope_scaling: factors, beta_fast, beta_slow and original_context_length must be above 0")
        if self.low_freq_factor > self.high_freq_factor:
            raise UsageError(
                f"rope_scaling: low_freq_factor {self.low_freq_factor:g} is above high_freq_factor "
                f"{self.high_freq_factor:g}"
            )
        if self.kind == "longrope" and not len(self.short_factors) == len(self.long_factors) > 0:
            raise UsageError(
                f"rope_scaling: longrope has {len(self.short_factors)} short_factors and {len(self.long_factors)} "
                "long_factors; there is one of each for every two dimensions of a head"
            )
        if self.kind == "longrope" and self.original_context_length < 2:
            raise UsageError("rope_scaling: longrope needs an original_context_length of at least 2")

    @property
    def magnitude(self) -> float:
        """The factor of queries and keys; attention scores are multiplied by its square."""
        if self.attention_factor:
            return self.attention_factor
        if self.kind == "yarn":
            return yarn_magnitude(self.factor)
        if self.kind == "longrope" and self.factor > 1:
            return math.sqrt(1 + math.log(self.factor) / math.log(self.original_context_length))
        return 1.0

    @property
    def depends_on_length(self) -> bool:
        """Whether the frequencies depend on the sequence length."""
        return self.kind in ("dynamic", "longrope")


def yarn_magnitude(factor: float, scale: float = 1.0) -> float:
    """YaRN's attention factor, 0.1 * scale * ln(factor) + 1; 1 for a factor up to 1."""
    return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0


def base_frequencies(head_dim: int, theta: float, device: torch.device | None = None) -> Tensor:
    """Unscaled frequencies in radians per token, (D/2,)."""
    return 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)


def scale_frequencies(frequencies: Tensor, scaling: RopeScaling, theta: float = 10_000.0) -> Tensor:
    """Scale base frequencies (D/2,) of this theta by a kind that does not depend on the sequence length."""
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    if scaling.kind == "yarn":
        ramp = yarn_ramp(len(frequencies), theta, scaling).to(frequencies.device)
        return frequencies / scaling.factor * ramp + frequencies * (1 - ramp)
    turns = scaling.original_context_length * frequencies / (2 * math.pi)  # over the original context
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    # interpolation: 0 for low frequencies (scaled), 1 for high ones (kept). low == high must not divide by 0
    kept = ((turns - low) / (high - low)).clamp(0, 1) if high > low else (turns >= low).float()
    return frequencies * (kept + (1 - kept) / scaling.factor)


def yarn_ramp(n_pairs: int, theta: float, scaling: RopeScaling) -> Tensor:
    """Interpolation of each pair, (D/2,): 0 keeps the frequency, 1 divides it by factor."""
    head_dim = 2 * n_pairs

    def pair_with(turns: float) -> float:
        """The (fractional) pair that makes this many rotations within the original context."""
        return head_dim * math.log(scaling.original_context_length / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair_with(scaling.beta_fast), pair_with(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001  # as in the paper's code: it must not divide by 0
    return ((torch.arange(n_pairs, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)


def dynamic_frequencies(head_dim: int, theta: float, scaling: RopeScaling, lengths: Tensor) -> Tensor:
    """Dynamic NTK frequencies for sequences of these lengths, (B, 1) -> (B, D/2)."""
    original = scaling.original_context_length
    growth = scaling.factor * lengths.clamp(min=original).float() / original - (scaling.factor - 1)
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=lengths.device) / head_dim
    return 1.0 / (theta * growth ** (head_dim / (head_dim - 2))) ** exponents


def longrope_frequencies(head_dim: int, theta: float, scaling: RopeScaling, lengths: Tensor) -> Tensor:
    """LongRoPE frequencies for sequences of these lengths, (B, 1) -> (B, D/2)."""
    short = torch.tensor(scaling.short_factors, dtype=torch.float32, device=lengths.device)
    long = torch.tensor(scaling.long_factors, dtype=torch.float32, device=lengths.device)
    factors = torch.where(lengths > scaling.original_context_length, long, short)
    return base_frequencies(head_dim, theta, lengths.device) / factors
