"""`luthier figures`: the course's pictures, from the package's own modules and real runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from luthier.cli.texts import given_text
from luthier.terminal.printing import say

ABOUT = """Make the course's pictures: norms, activations, gradients, attention, positions, sampling, training, experts,
the cache. Each is NAME.png, its numbers beside it as NAME.csv. Without a model, small ones are trained on the spot.

    luthier figures
    luthier figures attention heads --model runs/book --text "The cat sat on the mat because it was tired."
"""


@dataclass(frozen=True)
class Arguments:
    """What the command line says."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NAME ...]")] = ()
    """Pictures to make; all unless given."""
    out: Path = Path("outputs")
    """The folder that they go into."""
    svg: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write NAME.svg too."""
    model: str = ""
    """A trained model to look into, of any kind that opens."""
    text: str = ""
    """What the model reads."""


def main(arguments: list[str]) -> int:
    """Make the pictures and name each file."""
    given = tyro.cli(Arguments, prog="luthier figures", description=ABOUT, args=arguments)
    from luthier.figures.show import draw

    draw(
        *given.names, out=given.out, svg=given.svg, model=given.model or None, text=given_text(given.text, "--text"),
        drawn=lambda path, picture: say(f"{path}  {picture.caption}"),
    )  # fmt: skip
    return 0
