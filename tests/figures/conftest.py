from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from luthier.figures.models import Models

os.environ.setdefault("MPLBACKEND", "agg")
TEXT = "The function returns a new list of items in the string , and raises an error if 1 or 22 is empty ."


@pytest.fixture(scope="package")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    """Models of a thousand parameters, trained for six steps."""
    book = tmp_path_factory.mktemp("text") / "book.txt"
    book.write_text(" ".join(random.Random(1).choices(TEXT.split(), k=1500)), encoding="utf-8")
    options = {"steps": 6, "batch_size": 2, "vocab_size": 300, "eval_interval": 2, "precision": "float32"}
    model = {"dim": 16, "n_layers": 2, "n_heads": 2, "context_length": 32}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("luthier.run.callbacks.step_statistics.matrix_product_peak", lambda device, dtype: 1e11)
        with Models(data=(str(book),), options=options, model=model, told=lambda line: None) as made:
            yield made


@pytest.fixture(scope="package")
def run(models: Models) -> Path:
    """The folder of the small Llama 4's training."""
    return models.trained("llama4-nano")
