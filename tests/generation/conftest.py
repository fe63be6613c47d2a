"""The tokenizer and the models of byte_models.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from byte_models import CONFIGS, ByteTokenizer, small_model

from luthier.model.transformer import Transformer


@pytest.fixture
def tokenizer() -> ByteTokenizer:
    return ByteTokenizer()


@pytest.fixture(scope="session", params=CONFIGS)
def model(request: pytest.FixtureRequest) -> Transformer:
    return small_model(CONFIGS[request.param])


@pytest.fixture(scope="session")
def gpt2_model() -> Transformer:
    return small_model(CONFIGS["gpt2"])


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    """Tiny products: a second thread costs more than it brings, far more on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
