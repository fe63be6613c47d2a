from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from luthier.cli.main import main
from luthier.data.shards import open_tokens

from .small_tokenizers import WORDS, Backed


@pytest.fixture(scope="module")
def saved(gpt2_way: Backed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    gpt2_way.save(folder)
    return folder / "tokenizer.json"


def test_the_list_shows_every_corpus_with_its_license_and_whether_it_is_here(capsys):
    assert main(["data", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = {line.split()[0]: line for line in lines if not line.startswith(" ")}
    assert list(found)[1:] == [
        "python-docs",
        "the-verdict",
        "tiny-shakespeare",
        "wikitext-fr",
        "tinystories",
        "fineweb-edu",
    ]
    assert found["tinystories"].split() == ["tinystories", "2.2", "GB", "no", "English", "CDLA-Sharing-1.0"]
    assert found["python-docs"].split() == ["python-docs", "none", "yes", "English", "PSF-2.0"]
    assert "  https://huggingface.co/datasets/asi/wikitext_fr" in lines
    assert max(map(len, lines)) < 100


def test_preparing_files_says_what_there_is_and_writes_it(saved, gpt2_way, tmp_path, capsys):
    book, text = tmp_path / "book.txt", WORDS * 10
    book.write_text(text)
    assert main(["data", "prepare", str(book), "--tokenizer", str(saved), "--out", str(tmp_path / "out")]) == 0
    tokens = open_tokens(tmp_path / "out", "train", verify=True)
    assert tokens[:].tolist() == gpt2_way.encode(text[: int(0.9 * len(text))])
    assert capsys.readouterr().out.split()[:3] == ["train", f"{len(tokens):,}", "tokens"]


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["nowhere.txt"], 1, "luthier: nowhere.txt: no such file or folder"),
        (["nocorpus"], 1, "nor is it a corpus: python-docs"),
        (["--validation", "2"], 2, "--validation 2.0 and --test 0.0 are fractions"),
    ],
)
def test_a_wrong_command_is_one_line_and_leaves_nothing(saved, tmp_path, capsys, arguments, code, complaint):
    out = tmp_path / "out"
    assert main(["data", "prepare", *arguments, "--tokenizer", str(saved), "--out", str(out)]) == code
    errors = capsys.readouterr().err
    assert complaint in errors
    assert errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_preparation_stopped_from_the_keyboard_leaves_nothing(saved, tmp_path, own_home):
    (tmp_path / "book.txt").write_text((WORDS + "\n") * 400_000)
    command = [sys.executable, "-m", "luthier", "data", "prepare", str(tmp_path / "book.txt")]
    command += ["--tokenizer", str(saved), "--out", str(tmp_path / "out")]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "LUTHIER_HOME": str(own_home)})
    while run.poll() is None and not list(tmp_path.glob(".out.*.unfinished")):
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130, errors
    assert [path.name for path in tmp_path.iterdir()] == ["book.txt"]
