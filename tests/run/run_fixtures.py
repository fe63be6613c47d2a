"""What tests of runs and of faults share: a text, one thread, and no measuring of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_runs import words


@pytest.fixture(autouse=True)
def _peak_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's peak takes a third of a second to measure, and is not what these tests are about."""
    monkeypatch.setattr("luthier.run.callbacks.step_statistics.matrix_product_peak", lambda device, dtype: 1e11)
    monkeypatch.setattr("luthier.run.forecast.matrix_product_peak", lambda device, dtype: 1e11)


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text(words(300), encoding="utf-8")
    return path
