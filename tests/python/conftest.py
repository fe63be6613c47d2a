"""A folder in which the examples of docstrings and of docs/python.md run: a text, and a trained run of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from run_fixtures import _peak_at_once  # noqa: F401
from tiny_runs import LLAMA, OPTIONS, words

import luthier


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("python")
    (folder / "book.txt").write_text(words(300), encoding="utf-8")
    luthier.train(folder / "book.txt", out=folder / "runs/book", model=LLAMA, **OPTIONS)
    talker = {**OPTIONS, "tokenizer": "bpe", "vocab_size": 300, "steps": 1, "sample_interval": 9}
    luthier.train(folder / "book.txt", out=folder / "runs/chat", model={**LLAMA, "context_length": 256}, **talker)
    return folder


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = shutil.copytree(trained, tmp_path / "place")
    monkeypatch.chdir(folder)
    return Path(folder)
