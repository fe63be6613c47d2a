"""Pages made of sections: facts, tables, texts and charts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from luthier.files.atomic_file import PAGE, replacing_file
from luthier.pages.charts import Chart
from luthier.pages.numbers import cell, without_nan
from luthier.pages.templates import render

Cell = str | float | None


@dataclass(frozen=True)
class Table:
    """Rows under a head. folded: shown when asked for. Numbers are aligned to the right."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Sample:
    """What a model generated after a prompt."""

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
    """Write a page, whole or not at all. Raises a LuthierError where it cannot be written."""
    shown = list(sections)
    charts = without_nan([asdict(chart) for section in shown for chart in section.charts])
    text = render(
        "luthier.pages", "sections", title=title, data=charts, scripted=bool(charts),
        lead=lead, sections=shown, cell=cell,
    )  # fmt: skip
    with replacing_file(path, begins=PAGE) as part:
        part.write_bytes(text.encode("utf-8", "replace"))  # a file may hold halves of surrogate pairs
    return path
