"""Quiet peers: transformers tells its progress to a person, and warnings are errors here."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

# read when transformers is imported, which happens in the test modules
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    """Tiny products: a second thread costs more than it brings, far more on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
