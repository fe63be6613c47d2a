from __future__ import annotations

import re

import pytest
from hostile_texts import TEXT
from llama_cpp import write_vocabulary

from luthier.cli.main import main
from luthier.tokenizers.core.train import characters, train_bpe
from luthier.tokenizers.formats.gguf_vocabulary import to_gguf
from luthier.tokenizers.load import load


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_bpe_is_trained_on_files_and_written(book, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["tokenizer", "train", str(book), "--vocab-size", "500", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"wrote {out}: 500 tokens\n"
    assert load(out).vocab_size == 500
    assert load(out).decode(load(out).encode(TEXT)) == TEXT


def test_characters_are_collected_from_files(book, tmp_path):
    (tmp_path / "more.txt").write_text("ÿ")
    files = [str(book), str(tmp_path / "more.txt")]
    assert main(["tokenizer", "train", *files, "--kind", "characters", "--out", str(tmp_path / "out")]) == 0
    assert load(tmp_path / "out").fingerprint == characters([TEXT, "ÿ"]).with_cleaning("NFC").fingerprint
    wide = ["--byte-fallback", "--out", str(tmp_path / "wide")]
    assert main(["tokenizer", "train", str(book), "--kind", "characters", *wide]) == 0
    assert (
        load(tmp_path / "wide").fingerprint == characters([TEXT], byte_fallback=True).with_cleaning("NFC").fingerprint
    )


def test_a_text_too_small_for_the_vocabulary_is_said(tmp_path, capsys):
    (tmp_path / "small.txt").write_text("hello hello")
    assert main(["tokenizer", "train", str(tmp_path / "small.txt"), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert printed.err == "4,096 tokens were asked for, but no more pairs in this text occur twice\n"
    assert "261 tokens" in printed.out


def test_pieces_are_shown_one_a_line_with_their_ids(tmp_path, capsys):
    tokenizer = train_bpe(["Hello world, hello world"], 260)
    tokenizer.save(tmp_path)
    assert main(["tokenizer", "show", str(tmp_path), "e \n\tHé\x1b\u202e"]) == 0
    lines = capsys.readouterr().out.splitlines()
    ids = tokenizer.encode("e \n\tHé\x1b\u202e")
    assert [int(line.split()[0]) for line in lines[:-1]] == ids
    assert [line.split()[1] for line in lines[:-1]] == [
        "e",
        "␣",
        "↵",
        "⇥",
        "H",
        r"\xc3",
        r"\xa9",
        "<U+001B>",
        r"\xe2",
        r"\x80",
        r"\xae",
    ]
    assert lines[-1] == "11 tokens of 260; 8 characters, 11 bytes, 1.00 bytes a token"


def test_the_tokenizer_in_a_gguf_file_is_shown(tmp_path, capsys):
    tokenizer = train_bpe(["Hello world, hello world"], 260)
    path = write_vocabulary(tmp_path / "model.gguf", to_gguf(tokenizer, 260))
    assert main(["tokenizer", "show", str(path), "Hello\n"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [int(line.split()[0]) for line in lines[:-1]] == tokenizer.encode("Hello\n")
    for fields, complaint in (
        ({"tokenizer.ggml.model": "none"}, "has no tokenizer"),
        ({"tokenizer.ggml.pre": "gemma4"}, "'gemma4'"),
    ):
        write_vocabulary(path, to_gguf(tokenizer, 260) | fields)
        assert main(["tokenizer", "show", str(path), "Hello"]) == 1
        complained = capsys.readouterr().err
        assert str(path) in complained
        assert complaint in complained
    write_vocabulary(path, to_gguf(tokenizer, 260) | {"tokenizer.ggml.pre": "x"})
    assert main(["tokenizer", "show", str(path), "Hello"]) == 0
    assert "luthier: the GGUF file's way to cut words, 'x'" in capsys.readouterr().err


def test_special_tokens_are_shown_as_such_when_asked_for(tmp_path, capsys):
    characters(["<|endoftext|>"]).save(tmp_path)
    assert main(["tokenizer", "show", str(tmp_path), "<|endoftext|>"]) == 0
    assert "13 tokens" in capsys.readouterr().out
    assert main(["tokenizer", "show", str(tmp_path), "<|endoftext|>", "--special"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["0", "<|endoftext|>"]


def test_a_mark_alone_and_a_hidden_character_can_be_seen(tmp_path, capsys):
    characters(["e\u0301\u202e"]).save(tmp_path)
    assert main(["tokenizer", "show", str(tmp_path), "e\u0301\u202e"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[:3]] == ["e", "◌\u0301", "<U+202E>"]


def test_on_a_terminal_pieces_have_colors(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    characters(["ab"]).save(tmp_path)
    assert main(["tokenizer", "show", str(tmp_path), "ab"]) == 0
    first, _ = capsys.readouterr().out.splitlines()
    assert re.sub(r"\x1b\[[\d;]*m", "", first).split() == ["a", "1", "b", "2"]
    backgrounds = re.findall(r"\x1b\[30;10(\d)m", first)
    assert len(set(backgrounds)) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        ([], 2, "Missing subcommand"),
        (["show", "gpt2"], 2, "TEXT"),
        (["train", "book.txt"], 2, "--out"),
        (["train", "--kind", "words", "--out", "x"], 2, "invalid choice"),
        (["train", "nowhere.txt", "--out", "x"], 1, "nowhere.txt"),
        (["train", "{book}", "--vocab-size", "12", "--out", "{out}"], 2, "a vocabulary of 12 is too small"),
        (["train", "{book}", "--vocab-size", "99", "--kind", "characters", "--out", "{out}"], 2, "--vocab-size is for"),
        (["train", "{book}", "--byte-fallback", "--out", "{out}"], 2, "--byte-fallback is for"),
        (["train", "{book}", "--out", "{book}/x"], 1, "cannot write"),
        (["train", "{book}", "--out", "{model}"], 2, "holds a model"),
        (["show", "{model}/nothing", "text"], 1, "there is no tokenizer"),
        (["show", "gpt2", "a\udcff"], 2, "the text is not UTF-8: its byte 2 is 0xff"),
    ],
)
def test_a_wrong_command_is_a_clear_error_and_writes_nothing(book, tmp_path, capsys, arguments, code, complaint):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    names = {"book": book, "out": tmp_path / "out", "model": tmp_path / "model"}
    assert main(["tokenizer", *(argument.format(**names) for argument in arguments)]) == code
    printed = capsys.readouterr()
    assert complaint in printed.err
    assert "Traceback" not in printed.err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["book.txt", "config.json", "model"]
