"""Numbers as pages show them and as JSON takes them."""

from __future__ import annotations

import math
from typing import Any


def cell(value: str | float | None) -> str:
    """A number for people: thousands separated, five digits of a fraction. Text stays; None is a dash."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    if not 1e-4 <= abs(value) < 1e15:
        return f"{value:.3e}"
    return f"{value:,.5g}" if abs(value) < 1e5 else f"{value:,.0f}"


def perplexity(loss: float) -> float:
    """Exp of a loss in nats per token; infinity where that is no float."""
    return math.exp(loss) if loss < 700 else math.inf


def without_nan(value: Any) -> Any:
    """The same data with None for NaN and infinity, which JSON lacks."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    return [without_nan(item) for item in value] if isinstance(value, (list, tuple)) else value
