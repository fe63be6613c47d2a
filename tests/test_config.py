"""Dataclasses to and from tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from luthier.config import from_table, read_toml, to_table, toml_text
from luthier.errors import LuthierError, UsageError


@dataclass(frozen=True)
class Inner:
    factor: float = 8.0


@dataclass(frozen=True)
class Outer:
    dim: int = 4
    learning_rate: float = 1e-3
    layers: tuple[int, ...] | None = None
    inner: Inner | None = None
    name: str = ""
    width: int | None = 16

    def __post_init__(self) -> None:
        if self.dim < 0:
            raise UsageError(f"dim is {self.dim}: it must not be negative")


@pytest.mark.parametrize(
    "instance",
    [
        Outer(),
        Outer(7, 3e-4, (1, 2), Inner(2.5), 'a "quoted"\nline é'),
        Outer(layers=()),
        Outer(name="none"),
        Outer(width=None),
    ],
)
def test_a_dataclass_survives_toml(tmp_path, instance):
    path = tmp_path / "a.toml"
    path.write_text(toml_text(to_table(instance)), encoding="utf-8")
    assert from_table(Outer, read_toml(path), "a.toml") == instance


def test_a_whole_number_is_a_float_where_a_float_is_expected():
    assert from_table(Outer, {"learning_rate": 1}, "x").learning_rate == 1.0


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ({"learnin_rate": 1}, "a.toml has no setting learnin_rate: did you mean learning_rate?"),
        ({"zzz": 1}, "a.toml has no setting zzz: there are dim, learning_rate, layers, inner, name, width"),
        ({"dim": "x"}, "a.toml: dim: Expected `int`, got `str`"),
        ({"inner": {"factor": []}}, "a.toml: inner.factor: Expected `float`"),
        ({"dim": -1}, "dim is -1: it must not be negative"),
    ],
)
def test_a_wrong_key_or_value_is_one_line_that_says_what_is_right(table, complaint):
    with pytest.raises(UsageError) as error:
        from_table(Outer, table, "a.toml")
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "complaint"), [(b"a = = 1", "is not TOML"), (b"\xff\xfe", "is not TOML"), (None, "cannot be read")]
)
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content, complaint):
    path = tmp_path / "a.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LuthierError, match=complaint) as error:
        read_toml(path)
    assert str(path) in str(error.value)
