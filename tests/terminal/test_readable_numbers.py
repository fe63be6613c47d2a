"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest

from luthier.evaluation.evaluate import Evaluation
from luthier.terminal.numbers import readable


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [(5.25, 2, "5.25"), (48_726.04, 1, "48,726.0"), (9_999_999.0, 0, "9,999,999"), (1.5e7, 1, "1.50e+07"),
     (math.exp(699), 3, "3.73e+303"), (math.inf, 2, "inf")],
)  # fmt: skip
def test_large_numbers_are_powers_of_ten(value, decimals, text):
    assert readable(value, decimals) == text


def test_a_burst_loss_has_a_short_perplexity_in_an_evaluation():
    numbers = {"loss": 699.0, "standard_error": None, "tokens": 1, "bytes": 1, "seconds": 1.0}
    assert "3.73e+303" in Evaluation(**numbers, model="m", context=1, stride=1).row()
