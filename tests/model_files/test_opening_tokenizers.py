"""A tokenizer is opened by path or name, and a model's own is one of the paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.architectures import llama, registry
from luthier.errors import LuthierError
from luthier.language_model import LanguageModel
from luthier.model_files.tokenizer import open_tokenizer
from luthier.run.corpus import make_tokenizer
from luthier.run.plan import resolve
from luthier.tokenizers.core.train import train_bpe

TEXT = "Hello world, hello wide world"


@pytest.mark.parametrize("kind", ["hf", "gguf"])
def test_a_model_gives_its_tokenizer_to_another_run(tmp_path: Path, kind: str) -> None:
    tokenizer = train_bpe([TEXT], 270)
    config = llama.Config(tokenizer.vocab_size, 32, 32, 32, 1, 2, 1)
    path = tmp_path / ("model.gguf" if kind == "gguf" else "model")
    LanguageModel(registry.build(config), tokenizer, config).save(path, kind)
    assert open_tokenizer(path).encode(TEXT) == tokenizer.encode(TEXT)
    (tmp_path / "book.txt").write_text(TEXT, encoding="utf-8")
    plan = resolve((str(tmp_path / "book.txt"),), options={"tokenizer": str(path), "steps": 1})
    assert make_tokenizer(plan, None).encode(TEXT) == tokenizer.encode(TEXT)  # type: ignore[arg-type]


def test_what_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(LuthierError, match=r"model\.gguf"):
        open_tokenizer(tmp_path / "model.gguf")
    with pytest.raises(LuthierError, match="nowhere"):
        open_tokenizer("nowhere")
