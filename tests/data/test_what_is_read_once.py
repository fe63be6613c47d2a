"""Texts that overlap are read once, folders of runs are no text, and documents part where a separator says so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from luthier.data import decoding
from luthier.data.prepare import prepare
from luthier.data.shards import open_tokens
from luthier.data.sources import Texts
from luthier.data.splits import Fractions
from luthier.errors import LuthierError, UsageError
from luthier.tokenizers.core.train import characters

pytestmark = pytest.mark.filterwarnings("ignore::luthier.errors.Remark")


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def test_a_file_is_read_once_whatever_names_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "d" / "a.txt", "a")
    write(tmp_path / "d" / "b.txt", "b")
    (tmp_path / "d" / "link.txt").symlink_to(tmp_path / "d" / "b.txt")
    os.link(tmp_path / "d" / "a.txt", tmp_path / "hard.txt")
    for data in (
        ("d", "d/a.txt"),
        ("d", "./d"),
        ("d/*", "d/b.txt"),
        ("d/a.txt", "d/a.txt", "d/b.txt"),
        ("d", "hard.txt"),
    ):
        texts = Texts(data)
        assert sorted(texts.documents()) == ["a", "b"]
        assert texts.remarks == [f"of {' '.join(data)}, what is named twice is read once"]
    assert sorted(Texts(("d",)).documents()) == ["a", "b"]


def test_a_run_or_a_model_in_a_folder_is_no_text(tmp_path):
    write(tmp_path / "a.txt", "a")
    run, model = tmp_path / "runs" / "one", tmp_path / "gpt2"
    for name in ("run.toml", "metrics.jsonl", "samples.jsonl"):
        write(run / name, '{"text": "a sample"}\n')
    for name in ("config.json", "model.safetensors", "README.md", "merges.txt"):
        write(model / name, "{}")
    texts = Texts((tmp_path,))
    assert list(texts.documents()) == ["a"]
    assert texts.remarks == [
        f"{model}: skipped: it is the folder of a model",
        f"{run}: skipped: it is the folder of a training run",
    ]
    with pytest.raises(LuthierError, match="no file matches"):
        Texts((f"{tmp_path}/**/*.jsonl",))
    with pytest.raises(LuthierError, match="the folder of a training run, not a text"):
        Texts((run,))
    assert list(Texts((run / "samples.jsonl",)).documents()) == ["a sample"]  # named, it is meant


def test_a_recipe_beside_a_text_does_not_make_it_a_run(tmp_path):
    write(tmp_path / "run.toml", "steps = 3")
    write(tmp_path / "a.txt", "a")
    assert list(Texts((tmp_path,)).documents()) == ["a"]


def test_a_text_of_its_own_to_validate_on_is_left_out_of_the_rest(tmp_path):
    write(tmp_path / "d" / "a.txt", "aaaa")
    held_out = write(tmp_path / "d" / "b.txt", "bbbbbb")
    train = Texts((tmp_path / "d",), without=(held_out,))
    tokenizer = characters(["ab"])
    prepare(train, tokenizer, tmp_path / "out", fractions=Fractions(0), validation=Texts((held_out,)))
    assert tokenizer.decode(open_tokens(tmp_path / "out", "train")[:].tolist()) == "aaaa"
    validation = open_tokens(tmp_path / "out", "validation")
    assert tokenizer.decode(validation[:].tolist()) == "bbbbbb"
    assert validation.bytes == 6
    with pytest.raises(UsageError, match=r"is in .*b\.txt too"):
        list(Texts((held_out,), without=(held_out,)))
    with pytest.raises(UsageError, match=r"no fraction \(0.1\)"):
        prepare(train, tokenizer, tmp_path / "other", validation=Texts((held_out,)))


@pytest.mark.parametrize("block", [3, 1 << 20])
@pytest.mark.parametrize("separator", ["<|endoftext|>", "\n%\n", "\n\n\n", "é\r\n"])
def test_a_separator_parts_a_file_into_documents(tmp_path, monkeypatch, separator, block):
    monkeypatch.setattr(decoding, "BLOCK", block)
    path = tmp_path / "many.txt"
    path.write_bytes(separator.join(["one\nand more", " two ", "", "three%"]).encode())
    texts = Texts((path,), document_separator=separator)
    assert list(texts.documents()) == ["one\nand more\n", "two\n", "three%\n"]
    assert texts.remarks == []


def test_a_separator_that_is_seen_and_not_named_is_said_and_one_that_is_nowhere_too(tmp_path):
    path = write(tmp_path / "many.txt", "one<|endoftext|>two<|endoftext|>")
    texts = Texts((path,))
    assert list(texts.documents()) == ["one<|endoftext|>two<|endoftext|>"]
    [remark] = texts.remarks
    assert remark.startswith("'<|endoftext|>' is written in the text 2 times and is read as plain characters")
    assert "document_separator='<|endoftext|>'" in remark
    texts = Texts((path,), document_separator="###")
    assert list(texts.documents()) == ["one<|endoftext|>two<|endoftext|>\n"]
    assert texts.remarks == ["the document separator '###' is nowhere in the text"]


def test_a_missing_file_with_the_name_of_a_corpus_suggests_the_corpus():
    with pytest.raises(LuthierError, match=r"the-verdict\.txt: no such file.*there is a corpus the-verdict"):
        Texts(("the-verdict.txt",))
