"""Numbers as people read them."""

from __future__ import annotations

LARGE = 1e7  # from here on in powers of ten: a perplexity can have 300 digits


def readable(value: float, decimals: int) -> str:
    """1,234.5 with so many decimals; 1.23e+07 where it is large; inf."""
    return f"{value:,.{decimals}f}" if abs(value) < LARGE else f"{value:.2e}"
