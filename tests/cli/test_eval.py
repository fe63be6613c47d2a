"""`luthier eval` as a person uses it: the table, the file of scores, and what cannot be done."""

from __future__ import annotations

import json
import math

import pytest
from scored_runs import runs_of
from talking_models import byte_tokenizer, save_tiny

import luthier
from luthier.cli.main import main
from luthier.data import chunks
from luthier.data.sources import Texts
from luthier.evaluation import evaluate
from luthier.evaluation.perplexity import score
from luthier.tokenizers.core.train import train_bpe

TEXT = "Où est Paris ? In France, 東京 is elsewhere.\nA line follows a line.\n" * 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model") / "bytes", byte_tokenizer(), 64)


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model") / "bpe", train_bpe([TEXT], 300), 64)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


def run(capsys, *arguments):
    code = main(["eval", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_several_models_give_one_table(folder, merged, text, tmp_path, capsys):
    file = tmp_path / "scores.json"
    code, out, _ = run(capsys, folder, merged, text, "--context", "32", "--stride", "8", "--json", str(file))
    assert code == 0
    head, *lines = out.splitlines()
    assert " ".join(head.split()) == "model loss ± error perplexity bits/byte tokens tokens/s context stride"
    assert len({len(line) for line in [head, *lines]}) == 1
    scores = json.loads(file.read_text())
    assert scores["data"] == text
    for path, line, found in zip((folder, merged), lines, scores["models"], strict=True):
        lm = luthier.load(path)
        expected = score(lm.model, runs_of(lm.tokenizer, [TEXT]), context_length=32, stride=8)
        assert found["model"] == path
        assert found["loss"] == pytest.approx(expected.loss, rel=1e-6)
        assert found["standard_error"] == pytest.approx(expected.standard_error, rel=1e-4)
        assert found["perplexity"] == pytest.approx(math.exp(expected.loss), rel=1e-5)
        assert found["bits_per_byte"] == pytest.approx(expected.bits_per_byte, rel=1e-6)
        assert (found["tokens"], found["bytes"]) == (expected.tokens, expected.bytes)
        cells = line.split()
        assert cells[:3] == [path, f"{expected.loss:.4f}", f"{expected.standard_error:.4f}"]
        assert cells[4:6] == [f"{expected.bits_per_byte:.4f}", f"{expected.tokens:,}"]
        assert cells[7:] == ["32", "8"]


def test_a_terminal_gets_a_table_with_lines(folder, text, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "160")
    code, out, _ = run(capsys, folder, text)
    assert code == 0
    assert "┃" in out
    assert "bits/byte" in out


def test_the_windows_are_the_models_own_unless_given(folder, text, tmp_path, capsys):
    file = tmp_path / "scores.json"
    assert run(capsys, folder, text, "--json", str(file))[0] == 0
    [found] = json.loads(file.read_text())["models"]
    assert (found["context"], found["stride"]) == (64, 32)
    [few] = [score_of(capsys, file, folder, text, "--max-tokens", "100")]
    assert few["tokens"] == 100
    assert few["standard_error"] is not None
    assert score_of(capsys, file, folder, text, "--max-tokens", "9")["standard_error"] is None
    assert "-" in run(capsys, folder, text, "--max-tokens", "9")[1].split()
    narrow = score_of(capsys, file, folder, text, "--batch-size", "1", "--dtype", "float32", "--device", "cpu")
    assert narrow["loss"] == pytest.approx(found["loss"], rel=1e-6)


def score_of(capsys, file, *arguments):
    assert run(capsys, *arguments, "--json", str(file))[0] == 0
    return json.loads(file.read_text())["models"][0]


def test_lines_of_jsonl_are_documents_of_their_own(folder, tmp_path, capsys):
    file, path = tmp_path / "scores.json", tmp_path / "lines.jsonl"
    documents = ["Hello", "x", "Où est-ce ? " * 20]
    path.write_text("".join(json.dumps({"story": text}) + "\n" for text in documents))
    lm = luthier.load(folder)
    expected = score(lm.model, runs_of(lm.tokenizer, documents), context_length=64, stride=32)
    found = score_of(capsys, file, folder, str(path), "--field", "story")
    assert (found["tokens"], found["bytes"]) == (expected.tokens, expected.bytes)
    assert found["loss"] == pytest.approx(expected.loss, rel=1e-6)


def test_a_long_text_is_read_in_chunks_and_its_tokens_are_the_same(merged, tmp_path, monkeypatch):
    path = tmp_path / "long.txt"
    path.write_text(TEXT * 9, encoding="utf-8")
    tokenizer = luthier.load(merged).tokenizer
    monkeypatch.setattr(chunks.Cutter.__init__, "__defaults__", (700,))
    runs = list(evaluate.token_spans(Texts((str(path),)), tokenizer))
    assert len(runs) > 5
    assert [run.ends for run in runs] == [False] * (len(runs) - 1) + [True]
    [whole] = runs_of(tokenizer, [TEXT * 9])
    assert [number for run in runs for number in run.ids] == whole.ids
    assert sum(size for run in runs for size in run.sizes) == len((TEXT * 9).encode())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("TEXT",), 2, "give a model and a text"),
        (("MODEL", "nothing.txt"), 1, "nothing.txt: no such file"),
        (("MODEL", "nothing"), 1, "nor is it a corpus: python-docs"),
        (("missing", "TEXT"), 1, "there is no missing"),
        (("MODEL", "TEXT", "--context", "65"), 2, "was made for 64"),
        (("MODEL", "TEXT", "--context", "8", "--stride", "9"), 2, "stride is 9"),
        (("MODEL", "TEXT", "--max-tokens", "0"), 2, "--max-tokens is 0"),
        (("MODEL", "BYTES"), 1, "not UTF-8"),
        (("MODEL", "TEXT", "--json", "TEXT/scores.json"), 1, "scores.json"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(folder, text, tmp_path, capsys, arguments, code, message):
    (tmp_path / "bytes.txt").write_bytes(b"abc\xff")
    names = {"MODEL": folder, "TEXT": text, "BYTES": str(tmp_path / "bytes.txt")}
    names["TEXT/scores.json"] = text + "/scores.json"
    got, _, err = run(capsys, *(names.get(argument, argument) for argument in arguments))
    assert got == code
    assert message in err
    assert err.startswith("luthier: ")
    assert err.count("\n") == 1
