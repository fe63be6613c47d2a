"""All figures, by name, in the order of the course."""

from __future__ import annotations

from collections.abc import Callable

from luthier.figures.activations import gelu, swiglu
from luthier.figures.attention import attention, grouped_queries, heads
from luthier.figures.cache import cache
from luthier.figures.embeddings import embeddings
from luthier.figures.experts import experts
from luthier.figures.gradients import shortcuts
from luthier.figures.models import Models
from luthier.figures.normalization import layernorm, rmsnorm
from luthier.figures.picture import Picture
from luthier.figures.positions import positions
from luthier.figures.sampling import filters, temperature
from luthier.figures.training import schedules, training

FIGURES: dict[str, Callable[[Models], Picture]] = {
    "embeddings": embeddings,
    "positions": positions,
    "attention": attention,
    "heads": heads,
    "grouped_queries": grouped_queries,
    "layernorm": layernorm,
    "rmsnorm": rmsnorm,
    "gelu": gelu,
    "swiglu": swiglu,
    "shortcuts": shortcuts,
    "experts": experts,
    "training": training,
    "schedules": schedules,
    "temperature": temperature,
    "filters": filters,
    "cache": cache,
}
