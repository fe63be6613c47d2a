"""A matplotlib figure that a notebook shows by itself: it belongs to no window, and to no back end."""

from __future__ import annotations

import io

from matplotlib.figure import Figure

DOTS_PER_INCH = 100


class NotebookFigure(Figure):
    """A figure with a picture of itself, which Jupyter asks for."""

    def _repr_png_(self) -> bytes:
        return png_of(self)


def png_of(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DOTS_PER_INCH)
    return content.getvalue()
