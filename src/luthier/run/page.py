"""One page of HTML that stands alone: facts, tables, texts and charts. It opens from the disk, with no network.

What a run or a model wrote is data here, never HTML: jinja2 escapes it, charts get it as JSON, and the page's content
security policy forbids the browser to ask anybody for anything. Charts are drawn by Plotly, whose wheel brings its
JavaScript along.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from luthier.errors import LuthierError
from luthier.files.atomic_file import PAGE, replacing_file

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
Cell = str | float | None


@dataclass(frozen=True)
class Chart:
    """A chart. traces: as Plotly takes them, but that `tone` numbers a color, of which the page has a light and a
    dark set; made by `line`, `band`, `dots` and `heatmap`. log: of the y axis.
    """

    title: str
    x: str
    y: str
    traces: list[dict[str, Any]]
    caption: str = ""
    log: bool = False
    layout: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Rows under a head. folded: shown when asked for. Numbers stand to the right."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Sample:
    """What a model wrote, after a prompt that it was given."""

    place: str
    prompt: str
    text: str


@dataclass(frozen=True)
class Section:
    """A part of the page, in this order. facts: (name, value). code: lines for a shell, or a file's text."""

    title: str
    text: str = ""
    facts: Sequence[tuple[str, str]] = ()
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    samples: Sequence[Sample] = ()
    code: str = ""
    folded_code: tuple[str, str] | None = None  # (name, text)


def write_page(path: Path, title: str, lead: str, sections: Iterable[Section]) -> Path:
    """Write the page in one go; a reader never finds half of it. A LuthierError where it cannot be written."""
    from jinja2 import Environment, StrictUndefined  # late: only pages need it

    shown = list(sections)
    folder = resources.files("luthier") / "run" / "pages"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    environment.filters["cell"] = cell
    charts = [asdict(chart) for section in shown for chart in section.charts]
    text = environment.from_string((folder / "page.html").read_text("utf-8")).render(
        title=title, lead=lead, sections=shown, charts=without_nan(charts), plotly=plotly_js() if charts else "",
    )  # fmt: skip
    with replacing_file(path, begins=PAGE) as part:
        part.write_bytes(text.encode("utf-8", "replace"))  # a file may hold halves of surrogate pairs
    return path


def plotly_js() -> str:
    """The JavaScript of Plotly's wheel, without importing its Python."""
    try:
        return (resources.files("plotly") / "package_data" / "plotly.min.js").read_text("utf-8")
    except (ImportError, OSError):
        raise LuthierError("Plotly, which draws the charts of pages, is not installed: pip install plotly") from None


def as_text(text: str) -> str:
    """A text for Plotly's labels, which read a little HTML: of it they know these three signs and not quotes."""
    return html.escape(text, quote=False)


def line(name: str, x: Sequence[Cell], y: Sequence[Cell], tone: int, hover: Sequence[str] = ()) -> dict[str, Any]:
    """Points joined by a line, told apart from others by color and by dash. hover: a text for each point."""
    trace: dict[str, Any] = {"type": "scatter", "mode": "lines+markers", "name": as_text(name), "tone": tone}
    trace |= {"x": list(x), "y": list(y), "line": {"dash": DASHES[tone % len(DASHES)], "width": 2}}
    trace["marker"] = {"size": 5, "symbol": tone % 8}
    if hover:
        trace |= {"text": [as_text(text) for text in hover], "hovertemplate": "%{y:.5~g}<br>%{text}"}
    return trace


def band(x: Sequence[float], low: Sequence[float], high: Sequence[float], tone: int) -> dict[str, Any]:
    """The space between two lines, filled; without a name in the legend."""
    outline = {"x": [*x, *reversed(x)], "y": [*high, *reversed(low)]}
    return {"type": "scatter", "mode": "none", "fill": "toself", "tone": tone, "hoverinfo": "skip",
            "showlegend": False, **outline}  # fmt: skip


def dots(name: str, x: Sequence[str], y: Sequence[float], tone: int, hover: Sequence[str] = ()) -> dict[str, Any]:
    """Points in columns that have names."""
    trace = line(name, [as_text(place) for place in x], y, tone, hover)
    return {**trace, "mode": "markers", "marker": {"size": 9, "symbol": tone % 8}}


def heatmap(values: Sequence[Sequence[float]], x: Sequence[str], y: Sequence[str], unit: str) -> dict[str, Any]:
    """A color for each of the values, rows from the top."""
    return {
        "type": "heatmap", "z": [list(row) for row in values], "colorscale": "Cividis", "showscale": True,
        "x": [as_text(name) for name in x], "y": [as_text(name) for name in y],
        "colorbar": {"title": {"text": as_text(unit), "side": "right"}, "thickness": 12},
        "texttemplate": "%{z:.2f}" if values and len(values) * len(values[0]) <= 128 else "",
    }  # fmt: skip


def cell(value: Cell) -> str:
    """A table's number as people read it: with thousands apart, and five figures of a fraction."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    if not 1e-4 <= abs(value) < 1e15:
        return f"{value:.3e}"
    return f"{value:,.5g}" if abs(value) < 1e5 else f"{value:,.0f}"


def without_nan(value: Any) -> Any:
    """The same, with None for numbers that JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    return [without_nan(item) for item in value] if isinstance(value, (list, tuple)) else value
