"""What people and scripts give by mistake is one clear line, and never a traceback."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys

import pytest

from luthier.cli.main import main

LONG = "n" * 300


@pytest.fixture
def _place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text("a text of words\n" * 400, encoding="utf-8")
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary.bin").write_bytes(bytes(range(256)) * 20)


@pytest.mark.usefixtures("_place")
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["generate", LONG, "x"], "File name too long"),
        (["generate", "", "x"], "an empty name is no model"),
        (["generate", "no\x1b[31mmodel", "x"], "there is no no␛[31mmodel"),
        (["generate", "m", "caf\udce9"], "the prompt is not UTF-8: its byte 4 is 0xe9"),
        (["generate", "m", "x", "--stop", "\udcff"], "--stop is not UTF-8: its byte 1 is 0xff"),
        (["tokenizer", "show", "", "x"], "an empty name is no tokenizer"),
        (["tokenizer", "train", "book.txt", "--vocab-size", "99999999999999", "--out", "t"], "at most 10,000,000"),
        (["tokenizer", "train", "book.txt", "--out", "book.txt"], "book.txt is a file: a tokenizer is a folder"),
        (["tokenizer", "train", "book.txt", "--out", LONG], "File name too long"),
        (["data", "prepare", "", "--tokenizer", "gpt2", "--out", "p"], "an empty name is no text"),
        (["train", "book.txt", "--out", ""], "--out is empty"),
        (["train", "book.txt", "--out", LONG], "File name too long"),
        (["train", "book.txt", "--threads", "99999999"], "--threads is 99999999: it must be below"),
        (["train", "book.txt", "--seed", "-1"], "--seed is -1: it must not be negative"),
        (["train", "book.txt", "--seed", "9" * 30], "--seed is 999"),
        (["train", "book.txt", "--learning-rate", "inf"], "--learning-rate is inf"),
        (["train", "caf\udce9.txt"], "caf\\xe9.txt: no name in"),
        (["plan", "book.txt", "--epochs", "inf"], "--epochs is inf"),
        (["convert", "m", "o", "--to", "hf", "--shard-size", "nan"], "--shard-size is nan"),
        (["figures", "gelu", "--out", "book.txt"], "book.txt is a file"),
        (["verify", "binary.bin"], "binary.bin holds no model"),
        (["eval", "m", "folder"], "folder: this folder holds no text"),
    ],
)
def test_it_is_one_line_that_says_what_is_wrong(arguments, line, capsys):
    assert main(arguments) in (1, 2)
    shown = capsys.readouterr()
    assert line in shown.err
    assert shown.err.startswith("luthier: ")
    assert shown.err.count("\n") == 1
    assert "unexpected" not in shown.err
    assert shown.out == ""


@pytest.mark.parametrize(
    "arguments",
    [["--quantize", "\x1b]0;pwned\x07"], ["--no\x1b[31mpe"], ["--dtype", "\x1b[31m"]],
    ids=["title", "name", "value"],
)
def test_the_parser_of_options_shows_no_escape_codes_on_a_terminal(arguments):
    command = [sys.executable, "-m", "luthier", "generate", "m", "x", *arguments]
    number, terminal = pty.fork()
    if number == 0:
        os.execv(command[0], command)
    shown = b""
    with contextlib.suppress(OSError):  # how the end of a terminal is told
        while block := os.read(terminal, 4096):
            shown += block
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) == 2
    assert "␛".encode() in shown
    assert b"\x1b" not in shown


def test_text_arguments_are_utf8_in_an_ascii_locale_too():
    done = subprocess.run(
        [sys.executable, "-m", "luthier", "tokenizer", "show", "gpt2", "é"],
        env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"1 characters, 2 bytes" in done.stdout
