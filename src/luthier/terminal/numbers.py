"""Format numbers."""

from __future__ import annotations

LARGE = 1e7  # scientific notation from here on: a perplexity can have 300 digits


def readable(value: float, decimals: int) -> str:
    """Format with this many decimals, as in 1,234.5; large numbers as in 1.23e+07; inf."""
    return f"{value:,.{decimals}f}" if abs(value) < LARGE else f"{value:.2e}"
