"""Charts of a page, drawn by Plotly in the browser."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
Number = float | None
Trace = dict[str, Any]


@dataclass(frozen=True)
class Chart:
    """A chart. traces: as Plotly takes them, except that `tone` numbers a color, of which the page has a light and a
    dark set; made by `line`, `band`, `dots` and `heatmap`. log: of the y axis. layout: as Plotly takes it.
    """

    title: str
    x: str
    y: str
    traces: list[Trace]
    caption: str = ""
    log: bool = False
    layout: dict[str, Any] = field(default_factory=dict)


def as_text(text: str) -> str:
    """Escape a text for Plotly's labels, which read a little HTML: these three signs, and not quotes."""
    return html.escape(text, quote=False)


def line(name: str, x: Sequence[Any], y: Sequence[Number], tone: int, hover: Sequence[str] = ()) -> Trace:
    """Points joined by a line, told apart from others by color and by dash. hover: a text for each point."""
    trace: Trace = {"type": "scatter", "mode": "lines+markers", "name": as_text(name), "tone": tone}
    trace |= {"x": list(x), "y": list(y), "line": {"dash": DASHES[tone % len(DASHES)], "width": 2}}
    trace["marker"] = {"size": 5, "symbol": tone % 8}
    if hover:
        trace |= {"text": [as_text(text) for text in hover], "hovertemplate": "%{y:.5~g}<br>%{text}"}
    return trace


def band(x: Sequence[float], low: Sequence[float], high: Sequence[float], tone: int) -> Trace:
    """The space between two lines, filled; without a name in the legend."""
    outline = {"x": [*x, *reversed(x)], "y": [*high, *reversed(low)]}
    return {"type": "scatter", "mode": "none", "fill": "toself", "tone": tone, "hoverinfo": "skip",
            "showlegend": False, **outline}  # fmt: skip


def dots(name: str, x: Sequence[str], y: Sequence[float], tone: int, hover: Sequence[str] = ()) -> Trace:
    """Points in named columns."""
    trace = line(name, [as_text(place) for place in x], y, tone, hover)
    return {**trace, "mode": "markers", "marker": {"size": 9, "symbol": tone % 8}}


def heatmap(values: Sequence[Sequence[float]], x: Sequence[str], y: Sequence[str], unit: str) -> Trace:
    """A color for each value, rows from the top."""
    return {
        "type": "heatmap", "z": [list(row) for row in values], "colorscale": "Cividis", "showscale": True,
        "x": [as_text(name) for name in x], "y": [as_text(name) for name in y],
        "colorbar": {"title": {"text": as_text(unit), "side": "right"}, "thickness": 12},
        "texttemplate": "%{z:.2f}" if values and len(values) * len(values[0]) <= 128 else "",
    }  # fmt: skip
