"""`luthier.figures.show` and `draw`: the course's figures in Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from luthier.errors import UsageError, remark, setting
from luthier.figures.catalog import FIGURES
from luthier.figures.models import TEXT, Models
from luthier.figures.picture import Picture, write


def show(name: str, *, model: str | os.PathLike[str] | None = None, text: str = "") -> Picture:
    """Draw one of the course's figures; a notebook shows it.

        >>> picture = luthier.figures.show("gelu")
        >>> picture.table["relu"][0]  # at x = -4
        0.0
        >>> picture.figure.savefig("gelu.png")

    name: such as "gelu", "attention" or "training"; `luthier.figures.FIGURES` has all. model: a trained model to look
    into; without one, small models are trained where a figure needs them. text: what the model reads. Raises a
    UsageError for an unknown name.
    """
    with models_for((name,), model, text) as models:
        return FIGURES[name](models)


def draw(
    *names: str,
    out: str | os.PathLike[str] = "outputs",
    svg: bool = False,
    model: str | os.PathLike[str] | None = None,
    text: str = "",
    drawn: Callable[[Path, Picture], None] = lambda path, picture: None,
) -> list[Path]:
    """Draw figures into a folder, each as NAME.png with its numbers as NAME.csv. Returns the paths of the pictures.

        >>> luthier.figures.draw("gelu", "schedules", out="pictures")
        [PosixPath('pictures/gelu.png'), PosixPath('pictures/schedules.png')]

    names: all unless given. svg: write NAME.svg too. model, text: as for `show`. drawn: called after each. Raises a
    UsageError for an unknown name, and where `out` is a file.
    """
    with models_for(names, model, text) as models:
        if Path(out).exists() and not Path(out).is_dir():
            raise UsageError(f"{out} is a file: name a folder with {setting('out')}")
        paths = []
        for name in names or FIGURES:
            picture = FIGURES[name](models)
            paths.append(write(picture, Path(out), svg=svg)[0])
            drawn(paths[-1], picture)
        return paths


@contextmanager
def models_for(names: tuple[str, ...], model: str | os.PathLike[str] | None, text: str) -> Iterator[Models]:
    """The models that figures are drawn from. A UsageError for an unknown figure."""
    if unknown := [name for name in names if name not in FIGURES]:
        raise UsageError(f"no picture '{unknown[0]}': there are {', '.join(FIGURES)}")
    with Models(None if model is None else os.fspath(model), text=text or TEXT) as models:
        yield models
        drawn = ", ".join(names or FIGURES)
        for name, given, read in (("model", model, models.read_model), ("text", text, models.read_text)):
            if given and not read:
                remark(f"{setting(name, os.fspath(given))} has no effect: nothing of it is in {drawn}")
