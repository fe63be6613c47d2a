"""The course's figures, each drawn from the package's own modules and real runs, with its data beside it."""

from luthier.figures.catalog import FIGURES
from luthier.figures.picture import Picture
from luthier.figures.show import draw, show

__all__ = ["FIGURES", "Picture", "draw", "show"]
