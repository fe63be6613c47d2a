from __future__ import annotations

from run_fixtures import book  # noqa: F401 (pytest finds it here)
