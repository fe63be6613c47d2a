"""Figures with a title, a caption, and the plotted numbers as a table."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from luthier.files.atomic_file import replacing_file, write_file
from luthier.run.notebook_figure import png_of

# Okabe and Ito's color-blind-safe colors; lines also differ by dash
BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER, BLACK = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#333333"
)  # fmt: skip
COLORS = (BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER, BLACK)
DASHES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
SEQUENTIAL, DIVERGING = "cividis", "PuOr"  # color-blind-safe color maps
GRAY = "#555555"
DOTS_PER_INCH = 130
BEGINS = {"png": b"\x89PNG", "svg": b"<?xml"}


@dataclass(frozen=True, repr=False)
class Picture:
    """A figure and its numbers: the columns of a table, all of one length."""

    name: str
    title: str
    caption: str
    figure: Figure
    table: Mapping[str, Sequence[Any]]

    def __repr__(self) -> str:
        return f"Picture({self.name!r}: {self.title})"

    def _repr_png_(self) -> bytes:
        return png_of(self.figure)


def canvas(width: float = 10.0, height: float = 4.2) -> Figure:
    """An empty figure, in inches. Avoids pyplot's global state: a library must not open windows."""
    return Figure(figsize=(width, height), layout="constrained")


def finish(name: str, title: str, caption: str, figure: Figure, table: Mapping[str, Sequence[Any]]) -> Picture:
    """Add the title above the figure and the caption below it."""
    width = figure.get_size_inches()[0]
    figure.suptitle(title, x=0.01, ha="left", color=BLACK, fontweight="bold")
    figure.supxlabel("\n".join(textwrap.wrap(caption, int(13.5 * width))), x=0.01, ha="left", fontsize=9, color=GRAY)
    return Picture(name, title, caption, figure, table)


def tidy(axes: Axes, x: str, y: str, title: str = "") -> Axes:
    """Label the axes and remove distracting elements."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, fontsize=10, loc="left", color=BLACK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return axes


def plain_log(axes: Axes) -> None:
    """Logarithmic y axis with plain numbers as tick labels: 0.5, 2, 30."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    few = high / low < 100  # less than two decades: label minor ticks as well
    for which in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter)[: 2 if few else 1]:
        which(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "1235" else "")


def matrix(
    figure: Figure, axes: Axes, values: Tensor, unit: str, beside: Sequence[Axes] | None = None, **options: Any
) -> None:
    """Draw a matrix, rows from the top, with a color bar. beside: all axes that share the color bar."""
    shown = axes.imshow(values.numpy(), aspect="auto", interpolation="nearest", **{"cmap": SEQUENTIAL, **options})
    axes.grid(visible=False)
    if unit:
        figure.colorbar(shown, ax=axes if beside is None else list(beside), label=unit, fraction=0.05, pad=0.02)


def name_ticks(axes: Axes, x: Sequence[str] | None = None, y: Sequence[str] | None = None) -> None:
    """Tick labels of a matrix or bar chart."""
    if x is not None:
        axes.set_xticks(range(len(x)), x, rotation=90, fontsize=8)
    if y is not None:
        axes.set_yticks(range(len(y)), y, fontsize=8)


def label(piece: bytes) -> str:
    """Printable label of a token: a space as ·, characters missing from the font as ?."""
    text = piece.decode("utf-8", "replace").replace(" ", "·").replace("\n", "\\n").replace("\t", "\\t")
    shown = "".join(c if c.isprintable() and (ord(c) < 0x250 or c in "“”‘’–—…▁") else "?" for c in text)
    return shown.replace("$", r"\$")  # a pair of $ would start math mode


def write(picture: Picture, folder: Path, *, svg: bool = False) -> list[Path]:
    """Write NAME.png, its numbers as NAME.csv, and NAME.svg if requested. Returns the paths."""
    paths = [folder / f"{picture.name}.{kind}" for kind in ("png", *(["svg"] if svg else []), "csv")]
    for path in paths[:-1]:
        kind = path.suffix[1:]
        plain: dict[str, Any] = {"metadata": {"Date": None}} if kind == "svg" else {}
        with replacing_file(path, begins=BEGINS[kind]) as part, matplotlib.rc_context({"svg.hashsalt": picture.name}):
            picture.figure.savefig(part, format=kind, dpi=DOTS_PER_INCH, **plain)
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(picture.table)
    head = table.getvalue().encode()
    writer.writerows(zip(*picture.table.values(), strict=True))
    write_file(paths[-1], table.getvalue(), begins=head)
    return paths
