"""The tokenizer and the models of byte_models.py."""

from __future__ import annotations

import pytest
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
