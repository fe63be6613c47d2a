from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.training.schedule import learning_rate_factor, warmup_steps
from luthier.training.settings import Settings

SHAPES = ("constant", "cosine", "linear", "wsd")
schedules = st.builds(
    Settings,
    schedule=st.sampled_from(SHAPES),
    warmup=st.one_of(st.integers(0, 40), st.floats(0, 0.9)),
    decay=st.floats(0.01, 1),
    final_lr_fraction=st.floats(0, 1),
)


@settings(deadline=None)
@given(schedules, st.integers(1, 300))
def test_it_stays_between_0_and_1_and_only_falls_after_the_warmup(chosen: Settings, total: int) -> None:
    factors = [learning_rate_factor(chosen, step, total) for step in range(total)]
    warmup = warmup_steps(chosen, total)
    assert all(0 <= factor <= 1 for factor in factors)
    assert all(a < b for a, b in pairwise(factors[:warmup]))
    assert all(a >= b - 1e-12 for a, b in pairwise(factors[warmup:]))


@settings(deadline=None)
@given(schedules, st.integers(100, 300))
def test_it_begins_at_the_peak_and_ends_where_it_should_without_jumps(chosen: Settings, total: int) -> None:
    chosen = replace(chosen, warmup=10)
    factors = [learning_rate_factor(chosen, step, total) for step in range(total)]
    assert factors[9] == 1
    end = 1 if chosen.schedule == "constant" else chosen.final_lr_fraction
    assert factors[-1] == pytest.approx(end, abs=1e-9)
    longest = {"constant": 0, "cosine": math.pi / 2 / 88, "linear": 1 / 88}  # at a total of 100
    step = longest.get(chosen.schedule, 1 / max(1, min(chosen.decay * total, total - 11))) * (
        1 - chosen.final_lr_fraction
    )
    assert all(abs(a - b) <= step + 1e-9 for a, b in pairwise(factors[9:]))


def test_the_shapes_at_known_places() -> None:
    base = Settings(warmup=0, final_lr_fraction=0.2, decay=0.5)
    at = {
        shape: [learning_rate_factor(replace(base, schedule=shape), s, 101) for s in (0, 50, 100)] for shape in SHAPES
    }
    assert at["constant"] == [1, 1, 1]
    assert at["cosine"] == pytest.approx([1, 0.6, 0.2])
    assert at["linear"] == pytest.approx([1, 0.6, 0.2])
    assert at["wsd"] == pytest.approx([1, 0.2 + 0.8 * 50 / 50.5, 0.2])


def test_the_warmup_is_a_number_of_steps_or_a_share_of_the_run() -> None:
    assert warmup_steps(Settings(warmup=30), 1000) == 30
    assert warmup_steps(Settings(warmup=0.05), 1000) == 50
    linear = [learning_rate_factor(Settings(warmup=4), step, 100) for step in range(4)]
    assert linear == [0.25, 0.5, 0.75, 1]
