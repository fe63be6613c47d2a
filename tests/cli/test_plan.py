"""`luthier plan`."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.cli.main import main
from luthier.run import forecast

TINY = (
    "--tokenizer characters --batch-size 2 --model.context-length 16 --model.dim 8 --model.n-heads 2 "
    "--model.n-kv-heads 1"
)


@pytest.fixture(autouse=True)
def _quick(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(forecast, "matrix_product_peak", lambda device, dtype: 1e11)
    Path("book.txt").write_text("ka lo mi " * 400, encoding="utf-8")


def table(capsys, *arguments: str) -> dict[str, str]:
    assert main(["plan", *arguments]) == 0
    rows = [line.strip(" │").split("│") for line in capsys.readouterr().out.splitlines() if line.count("│") == 3]
    return {name.strip(): value.strip() for name, value in rows}


def test_gpt2_is_counted_exactly_and_timed(capsys, monkeypatch):
    monkeypatch.setattr(forecast, "time_steps", lambda plan, device, dtype: 2.0)
    monkeypatch.setattr(forecast, "total_memory", lambda device: 64 * 10**9)
    rows = table(capsys, "gpt2-124m", "--steps", "30", "--gradient-accumulation-steps", "2")
    assert rows["parameters"] == "124,439,808"
    assert rows["memory: weights"] == rows["memory: gradients"] == "497.76 MB"
    assert rows["memory: adamw"] == "995.52 MB"
    assert rows["a checkpoint on disk"] == "1.49 GB"
    assert rows["a step, uncompiled"].startswith("4 s, 8,192 tokens/s")
    assert rows["the run of 30 steps"] == "2 min 0 s"


def test_activation_checkpointing_is_counted(capsys, monkeypatch):
    monkeypatch.setattr(forecast, "time_steps", lambda plan, device, dtype: 2.0)
    monkeypatch.setattr(forecast, "total_memory", lambda device: 64 * 10**9)
    arguments = ["gpt2-124m", "--batch-size", "8", "--model.dropout", "0", "--precision", "bfloat16"]
    row = "memory: activations of 8 x 1024 tokens"
    scale = {"MB": 1e6, "GB": 1e9}
    whole, checkpointed = (
        float(number) * scale[unit]
        for number, unit in (
            table(capsys, *arguments, *more)[row].split() for more in ([], ["--activation-checkpointing"])
        )
    )
    assert checkpointed < whole / 3


def test_what_is_too_large_is_counted_without_taking_memory_or_time(capsys, monkeypatch):
    def never(*_):
        raise AssertionError

    monkeypatch.setattr(forecast, "time_steps", never)
    rows = table(capsys, "llama4-scout")
    assert rows["parameters"].startswith("107,7")
    assert rows["active for a token"].startswith("17,17")
    assert rows["a step"] == "too large for this machine: nothing was timed"


def test_a_text_gives_the_length_of_the_run_and_nothing_is_left(capsys):
    rows = table(capsys, "book.txt", *TINY.split(), "--epochs", "2", "--batches", "sliding", "--stride", "8")
    characters = int(0.9 * 3600)
    assert rows["training tokens in the text"] == f"{characters:,}"
    windows = len(range(0, characters - 16, 8))
    assert f"the run of {2 * (windows // 2):,} steps" in rows
    assert [path.name for path in Path.cwd().iterdir()] == ["book.txt"]
    assert table(capsys, "llama-nano", "book.txt", *TINY.split())["training tokens in the text"] == f"{characters:,}"


def test_without_a_text_the_end_is_not_known(capsys):
    assert table(capsys, *TINY.split())["the run"] == "name a text, or --steps, to know"


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["gpt2-124"], 2, "no preset 'gpt2-124'. did you mean 'gpt2-124m'?"),
        (["nothing.txt"], 1, "nothing.txt: no such file or folder"),
        (["book.txt", *TINY.split(), "--model.context-length", "4000"], 2, "lower --model.context-length"),
        ([*TINY.split(), "--model.dim", "9"], 2, "dim 9"),
    ],
)
def test_a_wrong_command_says_what_is_right(arguments, code, complaint, capsys):
    assert main(["plan", *arguments]) == code
    assert complaint in capsys.readouterr().err
