"""A list of settings is one list for both directions."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from luthier.architectures.settings import Choice, Fixed, Section, Setting, SettingList, Unsupported, count, same_as
from luthier.errors import LuthierError, Remark


@dataclass(frozen=True)
class Shape:
    dim: int = 8
    wide: int = 8
    exact: bool = False
    odd: bool = False


SETTINGS: SettingList[Shape] = SettingList(
    Shape,
    (
        Unsupported(("odd",), "no place for {field}"),
        Setting("size", "dim", count()),
        Choice("act", "exact", {"tanh": False, "fast": False, "erf": True}),
        Fixed("bias", False),
        Section("more", Setting("width", "wide", count(), default=same_as("dim"))),
    ),
)


def test_a_list_of_settings_is_read_and_written():
    values = {"size": 3, "act": "erf", "bias": False, "more": {"width": 5}}
    assert SETTINGS.read(values) == Shape(3, 5, True)
    assert SETTINGS.write(Shape(3, 5, True)) == values
    assert SETTINGS.read({"size": 3, "act": "fast"}) == Shape(3, 3, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"act": "relu"}, "'act': 'relu' is not supported"),
        ({"bias": True}, "'bias'"),
        ({"size": None}, "'size' is missing"),
        ({"more": {"width": 0}}, "'width' must be a whole number"),
    ],
)
def test_a_setting_that_is_wrong_is_named(change, message):
    with pytest.raises(LuthierError, match=message):
        SETTINGS.read({"size": 3, **change})


def test_what_no_entry_reads_draws_a_remark_and_what_no_setting_holds_an_error():
    with pytest.warns(Remark, match="'other' is not understood"):
        SETTINGS.read({"size": 3, "other": 1})
    with pytest.raises(LuthierError, match="no place for odd"):
        SETTINGS.write(Shape(odd=True))
