"""Every picture: its files, its words, and how pictures are written."""

from __future__ import annotations

import csv

import matplotlib.image
import pytest

from luthier.cli import figures as command
from luthier.errors import LuthierError, Remark, UsageError
from luthier.figures.catalog import FIGURES
from luthier.figures.models import Models
from luthier.figures.picture import canvas, finish, label, plain_log, write


@pytest.fixture(scope="module")
def pictures(models):
    return {name: make(models) for name, make in FIGURES.items()}


@pytest.mark.parametrize("name", FIGURES)
def test_each_picture_has_its_words_and_its_numbers_beside_it(name, pictures, tmp_path):
    picture = pictures[name]
    assert picture.name == name
    assert picture.title
    assert picture.caption.endswith(".")
    assert ". " not in picture.caption  # one sentence
    for axes in picture.figure.axes:
        if axes.get_visible() and axes.axison and "colorbar" not in axes.get_label():
            assert axes.get_xlabel() or axes.get_ylabel() or axes.get_title(loc="left")
    png, table = write(picture, tmp_path)
    height, width, _ = matplotlib.image.imread(png).shape
    assert width > height / 2 > 150
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == list(picture.table)
    lengths = {len(column) for column in picture.table.values()}
    assert lengths == {len(rows) - 1}
    assert len(rows) > 1


def test_every_plain_axis_is_named(pictures):
    for name in ("layernorm", "rmsnorm", "gelu", "swiglu", "shortcuts", "training", "schedules", "cache", "embeddings"):
        for axes in pictures[name].figure.axes:
            assert axes.get_xlabel() or axes.get_label() == "<colorbar>", name
            assert axes.get_ylabel(), name


def test_a_picture_is_written_alike_each_time(models, tmp_path):
    first, again = (write(FIGURES["gelu"](models), tmp_path / name, svg=True) for name in "ab")
    assert [path.name for path in first] == ["gelu.png", "gelu.svg", "gelu.csv"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


def test_a_token_can_be_drawn_whatever_it_is():
    assert label(b" the") == "·the"
    assert label(b"\n\t") == r"\n\t"
    assert label(b"$x$") == r"\$x\$"
    assert label(b"\xff\x00\xe2\x80\xae") == "???"
    assert label("日é".encode()) == "?é"
    figure = canvas(4, 3)
    figure.subplots().set_title(label(b"$\\frac{$"))  # would not parse as a formula
    finish("name", "title", "caption.", figure, {"a": [1]}).figure.draw_without_rendering()


def test_numbers_on_a_log_axis_are_plain():
    figure = canvas()
    axes = figure.subplots()
    axes.plot([1, 2], [0.5, 20])
    plain_log(axes)
    figure.draw_without_rendering()
    shown = [text.get_text() for text in axes.get_yticklabels(which="both")]
    assert {"1", "10", "0.5", "20"} <= set(shown)


def test_the_command_makes_what_is_named(tmp_path, capsys):
    out = tmp_path / "pictures"
    assert command.main(["gelu", "schedules", "--out", str(out), "--svg"]) == 0
    names = sorted(path.name for path in out.iterdir())
    assert names == [f"{name}.{kind}" for name in ("gelu", "schedules") for kind in ("csv", "png", "svg")]
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        str(out / "gelu.png"), str(out / "schedules.png")
    ]  # fmt: skip
    with pytest.raises(UsageError, match=r"no picture 'galu': there are .*gelu"):
        command.main(["galu", "--out", str(out)])


def test_a_given_model_is_looked_into_where_it_can_be(models, run):
    with Models(run, text="the items in a list") as given:
        assert given.lm is given.given
        assert given.with_experts is given.given
        assert FIGURES["experts"](given).table["token"]
        assert FIGURES["training"](given).table["step"] == [0, 2, 4, 6]
    with Models(models.trained("gpt2-nano")) as given:
        assert given.with_positions is given.given


def test_a_model_or_a_text_that_no_picture_shows_is_a_remark(run, tmp_path):
    options = ["--out", str(tmp_path), "--model", str(run)]
    with pytest.warns(Remark) as said:
        command.main(["gelu", "swiglu", *options, "--text", "a list"])
    assert [str(each.message) for each in said] == [
        f"model='{run}' has no effect: nothing of it is in gelu, swiglu",
        "text='a list' has no effect: nothing of it is in gelu, swiglu",
    ]
    command.main(["gelu", "training", *options])


def test_a_text_too_short_is_refused(models, run):
    with Models(run, text="") as given, pytest.raises(LuthierError, match="give one of two at least"):
        FIGURES["attention"](given)
