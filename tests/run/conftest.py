from __future__ import annotations

import os

from run_fixtures import _peak_at_once, book  # noqa: F401 (pytest finds them here)

os.environ["TRANSFORMERS_VERBOSITY"] = "error"  # read when transformers is imported
