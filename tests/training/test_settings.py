from __future__ import annotations

import pytest

from luthier.errors import UsageError
from luthier.training.settings import Settings


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"learning_rate": 0.0}, "learning_rate is 0.0: it must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"batch_size": -3}, "batch_size is -3"),
        ({"max_grad_norm": -1.0}, "max_grad_norm is -1.0: it must not be negative"),
        ({"beta2": 1.0}, "beta2 is 1.0: it must be at least 0 and below 1"),
        ({"decay": 0.0}, "decay is 0.0"),
        ({"final_lr_fraction": 1.5}, "final_lr_fraction is 1.5: it must be at most 1"),
        ({"validation": 0.5, "test": 0.5}, "something to train on"),
        ({"steps": 5, "epochs": 2.0}, "steps 5 and epochs 2 both end the run: give one of the two"),
    ],
)
def test_a_setting_out_of_its_range_is_named_with_its_value_and_the_rule(changes, complaint):
    with pytest.raises(UsageError) as error:
        Settings(**changes)
    assert complaint in str(error.value)
