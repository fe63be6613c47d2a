"""A tokenizer is opened by path or name, and a model's own is one of the paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.architectures import llama, registry
from luthier.data.sources import Texts
from luthier.errors import LuthierError
from luthier.language_model import LanguageModel
from luthier.model_files.tokenizer import open_tokenizer
from luthier.run.corpus import make_tokenizer
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
    assert make_tokenizer(str(path), 0, Texts((tmp_path / "book.txt",))).encode(TEXT) == tokenizer.encode(TEXT)


def test_what_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(LuthierError, match=r"model\.gguf"):
        open_tokenizer(tmp_path / "model.gguf")
    with pytest.raises(LuthierError, match="nowhere"):
        open_tokenizer("nowhere")


STANDS_FOR_ANOTHER = {
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n": "is a Git LFS pointer, not the file itself",
    b"<!DOCTYPE html><html>Sign in</html>": "is a web page (HTML), not the file",
}


@pytest.mark.parametrize("content", STANDS_FOR_ANOTHER)
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model", "vocab.json", "words.model", "words.gguf"])
def test_a_download_that_stands_for_another_file_is_named(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    for given in [tmp_path / name, *([tmp_path] if not name.startswith("words") else [])]:
        with pytest.raises(LuthierError) as caught:
            open_tokenizer(given)
        assert str(caught.value).startswith(f"{tmp_path / name} {STANDS_FOR_ANOTHER[content]}")


def test_settings_beside_a_tokenizer_are_looked_at_too(tmp_path: Path) -> None:
    train_bpe([TEXT], 270).save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_bytes(next(iter(STANDS_FOR_ANOTHER)))
    for given in (tmp_path, tmp_path / "tokenizer.json"):
        with pytest.raises(LuthierError, match=r"tokenizer_config\.json is a Git LFS pointer"):
            open_tokenizer(given)
