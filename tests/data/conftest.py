from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from .small_tokenizers import LLAMA3, Backed, byte_level, llama2_way

settings.register_profile("unhurried", deadline=None)  # a busy machine is not a fault of the code
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def gpt2_way() -> Backed:
    return byte_level(None)


@pytest.fixture(scope="session", params=["gpt2", "llama3", "llama2"])
def tokenizer(request: pytest.FixtureRequest) -> Backed:
    return {"gpt2": lambda: byte_level(None), "llama3": lambda: byte_level(LLAMA3), "llama2": llama2_way}[
        request.param
    ]()


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees, or fills, the corpora of the person who runs it."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("LUTHIER_HOME", str(home))
    return home
