"""Generation settings."""

from __future__ import annotations

import math
from dataclasses import dataclass

from luthier.errors import UsageError, setting

MAX_BEAMS, MAX_SAMPLES = 1_000, 10_000  # whether memory suffices is checked against the model


@dataclass(frozen=True)
class GenerationSettings:
    """How each next token is chosen, and when to stop. Raises a UsageError for a value out of its range.

    The logits pass through repetition_penalty, temperature, top_k, top_p and min_p, in this order; then one token is
    sampled. With beams above 1 there is no sampling: temperature, top_k, top_p, min_p and seed have no effect.
    """

    max_new_tokens: int = 200
    """Maximum number of new tokens. Generation also stops when the model's context is full."""
    temperature: float = 0.8
    """Divide the logits by this: below 1 less random, above 1 more random, 0 greedy decoding."""
    top_k: int | None = None
    """Sample from the K most probable tokens only."""
    top_p: float | None = 0.9
    """Sample from the most probable tokens that together have this probability; 1 keeps all (arXiv 1904.09751)."""
    min_p: float | None = None
    """Drop tokens less probable than this fraction of the most probable token's probability (arXiv 2407.01082)."""
    repetition_penalty: float = 1.0
    """Above 1: make tokens that the text already contains less likely (arXiv 1909.05858)."""
    beams: int = 1
    """Above 1: beam search with this many beams; returns the most probable text."""
    length_penalty: float = 1.0
    """Beam search: divide a text's log-probability by its length to this power; higher favors longer texts."""
    samples: int = 1
    """Number of samples for each prompt; sample i (from 0) uses seed + i."""
    stop: tuple[str, ...] = ()
    """Strings that end generation. They are not part of the text."""
    seed: int = 1
    """Random seed: the same seed gives the same text, alone or in a batch."""
    use_cache: bool = True
    """Use a key-value cache: the same text, without recomputing all tokens at each step."""

    def __post_init__(self) -> None:
        require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "at least 1")
        stable = self.temperature == 0 or 1e-3 <= self.temperature < math.inf  # below this the logits could overflow
        require(stable, "temperature", self.temperature, "0 (greedy decoding), or at least 0.001")
        require(self.top_k is None or self.top_k >= 1, "top_k", self.top_k, "at least 1")
        require(self.top_p is None or 0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        require(self.min_p is None or 0 <= self.min_p <= 1, "min_p", self.min_p, "between 0 and 1")
        require(0 < self.repetition_penalty < math.inf, "repetition_penalty", self.repetition_penalty, "above 0")
        require(1 <= self.beams <= MAX_BEAMS, "beams", self.beams, f"between 1 and {MAX_BEAMS:,}")
        require(-10 <= self.length_penalty <= 10, "length_penalty", self.length_penalty, "between -10 and 10")
        require(1 <= self.samples <= MAX_SAMPLES, "samples", self.samples, f"between 1 and {MAX_SAMPLES:,}")
        require(all(self.stop), "stop", self.stop, "strings of at least one character")
        require(0 <= self.seed < 2**62, "seed", self.seed, "between 0 and 2^62 - 1")
        if self.beams > 1 and self.samples > 1:
            raise UsageError(
                f"{setting('beams')} {self.beams} and {setting('samples')} {self.samples}: beam search "
                f"gives one text per prompt: use {setting('samples', 1)}, or {setting('beams', 1)} to sample several"
            )

    def idle(self) -> list[str]:
        """Settings that have no effect in this combination, with the reason, one line each."""
        sampling, greedy = ("top_k", "top_p", "min_p", "seed"), setting("temperature", 0)
        rules = (
            (self.beams > 1, ("temperature", *sampling), "beam search does not sample"),
            (self.beams == 1, ("length_penalty",), f"it is for beam search ({setting('beams')})"),
            (self.temperature == 0 and self.beams == 1, sampling, f"{greedy} always takes the most probable token"),
        )
        found = [
            f"{setting(name, getattr(self, name))} has no effect: {reason}"
            for applies, names, reason in rules
            for name in names
            if applies and getattr(self, name) != getattr(GenerationSettings, name)
        ]
        if self.temperature == 0 and self.samples > 1:
            found.append(
                f"{setting('samples', self.samples)} gives equal texts: {greedy} takes the most probable token"
            )
        return found


def require(valid: bool, name: str, value: object, range_: str) -> None:
    """Raise a UsageError that names the setting, its value and its range, unless it is valid."""
    if not valid:
        raise UsageError(f"{setting(name)} is {value}: it must be {range_}")
