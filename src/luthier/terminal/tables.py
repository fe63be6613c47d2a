"""Tables as plain text and HTML, for the representation of results in Python and in notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

Rows = Sequence[Sequence[str]]


def text_table(rows: Rows, heads: Sequence[str] = ()) -> str:
    """A plain-text table: the first column left-aligned, the others right-aligned if there are heads."""
    lines = [list(heads), *map(list, rows)] if heads else list(map(list, rows))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if heads and number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def html_table(rows: Rows, heads: Sequence[str] = ()) -> str:
    """An HTML table; without heads, the first column has the rows' names."""
    head = f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in heads)}</tr>" if heads else ""
    first = "td" if heads else "th"
    body = "".join(
        "<tr>"
        + "".join(
            f"<{kind}>{escape(cell)}</{kind}>" for kind, cell in zip([first, *["td"] * len(row)], row, strict=False)
        )
        + "</tr>"
        for row in rows
    )
    return f"<table>{head}{body}</table>"
