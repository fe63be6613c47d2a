"""What holds for every test."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tiny products: a second thread costs more than it brings, and far more on a busy machine."""
    torch.set_num_threads(1)
