"""Settings by the names that they had in version 0.1."""

from __future__ import annotations

from dataclasses import fields

import pytest

from luthier.errors import UsageError
from luthier.training.old_names import NEW_NAMES, with_new_names, with_new_options
from luthier.training.settings import Settings


def test_every_new_name_is_a_setting_and_no_old_one_is():
    names = {item.name for item in fields(Settings)}
    assert set(NEW_NAMES.values()) <= names
    assert not set(NEW_NAMES) & names


def test_settings_of_0_1_are_those_of_today():
    old = {"accumulation": 2, "clip": 0.5, "keep": 3, "non_finite": "back", "spikes": "log", "steps": 4, "seed": 2}
    assert Settings(**with_new_names(old)) == Settings(
        gradient_accumulation_steps=2, max_grad_norm=0.5, keep_checkpoints=3, non_finite="rewind", steps=4, seed=2
    )


def test_both_names_of_one_setting_are_refused():
    with pytest.raises(UsageError, match="clip is the old name of max_grad_norm: give one of the two"):
        with_new_names({"clip": 1.0, "max_grad_norm": 1.0})


def test_old_options_are_read_as_the_present_ones():
    old = "book.txt --evaluate-every 5 --clip=0.5 --spikes back --keep 3 --out keep --non-finite=back --steps 5"
    assert " ".join(with_new_options(old.split())) == (
        "book.txt --eval-interval 5 --max-grad-norm=0.5 --spikes rewind --keep-checkpoints 3 --out keep "
        "--non-finite=rewind --steps 5"
    )


def test_a_prompt_that_looks_like_an_old_option_is_left_alone():
    arguments = ["--sample-prompt", "--clip is", "--out", "back"]
    assert with_new_options(arguments) == arguments
