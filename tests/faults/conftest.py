from __future__ import annotations

from run_fixtures import _peak_at_once, book  # noqa: F401 (pytest finds them here)
