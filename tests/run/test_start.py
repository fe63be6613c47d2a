"""A run from its first line to its last file."""

from __future__ import annotations

import math
import shutil
from collections import namedtuple

import pytest
import torch
from tiny_runs import plan, records, words

import luthier
from luthier.errors import LuthierError, UsageError
from luthier.run import train
from luthier.run.plan import read_recipe, resolve

FAMILIES = ["gpt2-nano", "llama-nano", "llama4-nano"]


def test_a_run_leaves_the_files_that_it_names(book, tmp_path, capsys):
    out = train.start(plan(book), tmp_path / "run")
    names = {path.name for path in out.iterdir()} - {".lock", ".launch.json"}
    weights = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert names == weights | {
        "checkpoints", "losses.png", "metrics.jsonl", "report.html", "run.toml", "samples.jsonl", "tokens",
    }  # fmt: skip
    before, checkpoint = sorted((out / "checkpoints").iterdir())
    assert (before.name, checkpoint.name) == ("step-00000006", "step-00000008")
    assert {path.name for path in checkpoint.iterdir()} == weights | {
        "training_state.json", "training_state.safetensors",
    }  # fmt: skip
    assert (out / "losses.png").read_bytes().startswith(b"\x89PNG\r\n")
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "\x1b" not in shown.out  # not a terminal: plain lines
    assert "step 3/8" in shown.out
    assert f"weights   {out} (the best)" in shown.out


def test_what_was_measured_is_written_down_at_each_look(book, tmp_path):
    out = train.start(plan(book, eval_batches=0), tmp_path / "run")
    looks = records(out / "metrics.jsonl")
    assert [look["step"] for look in looks] == [0, 3, 4, 6, 8]
    characters = len(book.read_text())
    for look in looks:
        assert look["tokens"] == look["step"] * 2 * 16
        assert look["perplexity"] == pytest.approx(math.exp(look["validation_loss"]))
        # every character is a token, some of two bytes
        assert 0.9 < look["bits_per_byte"] * math.log(2) / look["validation_loss"] < 1
        assert look["epoch"] == pytest.approx(look["step"] * 32 / (0.9 * characters), rel=0.05)
    assert looks[0]["validation_loss"] > looks[-1]["validation_loss"]
    assert looks[-1]["gradient_norm"] > 0
    lm = luthier.load(out)
    assert lm.config.vocab_size == lm.tokenizer.vocab_size == len(set(book.read_text())) + 1


def test_samples_begin_with_the_prompt_and_come_when_due(book, tmp_path):
    out = train.start(plan(book, sample_prompt="ka lo"), tmp_path / "run")
    samples = records(out / "samples.jsonl")
    assert [sample["step"] for sample in samples] == [4, 8]
    assert all(sample["text"].startswith("ka lo") and len(sample["text"]) == 10 for sample in samples)


def test_a_run_without_validation_text_chooses_by_the_training_loss(book, tmp_path, capsys):
    out = train.start(plan(book, validation=0.0, steps=3), tmp_path / "run")
    assert "validation_loss" not in records(out / "metrics.jsonl")[-1]
    assert "best train loss" in capsys.readouterr().out


def test_the_best_weights_are_those_of_the_best_look(book, tmp_path):
    # a learning rate that bursts: the best weights are those before the first step
    out = train.start(plan(book, steps=3, eval_interval=1, learning_rate=50.0, warmup=0), tmp_path / "run")
    looks = records(out / "metrics.jsonl")
    assert min(looks, key=lambda look: look["validation_loss"])["step"] == 0
    fresh = train.start(plan(book, steps=1, learning_rate=1e-12), tmp_path / "fresh")
    best, first = (luthier.load(folder).model.embedding.weight for folder in (out, fresh))
    assert torch.equal(best, first)


@pytest.mark.slow
@pytest.mark.parametrize("preset", FAMILIES)
def test_transformers_loads_what_was_trained_with_the_same_logits(book, tmp_path, preset):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = train.start(plan(book, preset), tmp_path / "run")
    for folder in (out, next((out / "checkpoints").iterdir())):
        lm = luthier.load(folder)
        text = book.read_text()[:12]
        tokens = torch.tensor([lm.tokenizer.encode(text)])
        assert AutoTokenizer.from_pretrained(folder)(text)["input_ids"] == tokens[0].tolist()
        theirs = AutoModelForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            torch.testing.assert_close(lm.model(tokens), theirs(tokens).logits, atol=1e-4, rtol=1e-4)


def test_a_mixture_writes_the_loads_of_its_experts(book, tmp_path):
    out = train.start(plan(book, "llama4-nano", steps=4), tmp_path / "run")
    look = records(out / "metrics.jsonl")[-1]
    assert [len(layer) for layer in look["expert_loads"]] == [3, 3]
    assert all(sum(layer) == pytest.approx(1) for layer in look["expert_loads"])
    assert 1 <= look["imbalance"] <= 3


@pytest.mark.parametrize("tokenizer", ["characters", "bpe"])
def test_the_recipe_that_a_run_wrote_makes_the_same_run(book, tmp_path, tokenizer):
    first = plan(book, tokenizer=tokenizer, model={"vocab_size": 300} if tokenizer == "bpe" else {})
    out = train.start(first, tmp_path / "run")
    again = resolve(recipe=read_recipe(str(out)))
    assert again.settings == first.settings
    copy = train.start(again, tmp_path / "again")
    assert (out / "run.toml").read_text() == (copy / "run.toml").read_text()
    assert records(out / "metrics.jsonl") == records(copy / "metrics.jsonl")
    assert (out / "model.safetensors").read_bytes() == (copy / "model.safetensors").read_bytes()


@pytest.mark.parametrize("batches", ["sliding", "documents"])
def test_epochs_are_counted_in_the_batches_that_are_asked_for(tmp_path, batches):
    text = tmp_path / "lines"
    text.mkdir()
    for number in range(30):
        (text / f"{number}.txt").write_text(words(6, number), encoding="utf-8")
    out = train.start(plan(text, batches=batches, epochs=2.0, gradient_accumulation_steps=2), tmp_path / "run")
    assert records(out / "metrics.jsonl")[-1]["epoch"] == pytest.approx(2, abs=0.2)
    assert [round(sample["epoch"]) for sample in records(out / "samples.jsonl")][-1] == 2


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    ("changes", "error", "complaint"),
    [
        ({"model": {"dim": 9}}, UsageError, "dim 9"),
        ({"model": {"n_kv_heads": 3, "n_heads": 4}}, UsageError, "n_kv_heads 3"),
        ({"model": {"context_length": 4000}}, UsageError, "lower context_length"),
        ({"device": "cuda"}, LuthierError, "device cuda is not available: this machine has cpu"),
        ({"sample_prompt": "ka" * 30}, UsageError, "the prompt has 60 tokens and the model's context holds 16"),
        ({"sample_prompt": "Ω"}, UsageError, "'Ω' \\(U\\+03A9\\), is not among"),
        ({"stride": 3}, UsageError, "stride is for sliding windows"),
        ({"tokenizer": "nowhere"}, LuthierError, "there is no tokenizer nowhere"),
        ({"tokenizer": "bpe", "model": {"vocab_size": 100}}, UsageError, "a vocabulary of 100 is too small"),
    ],
)
def test_what_cannot_be_trained_is_said_before_the_first_step_and_leaves_nothing(
    book, tmp_path, monkeypatch, changes, error, complaint
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(error, match=complaint):
        train.start(plan(book, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_full_disk_is_said_before_the_first_step(book, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 5000))
    with pytest.raises(LuthierError, match=r"will write up to 0\.0 GB and 0\.0 GB are free: make room"):
        train.start(plan(book), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_too_little_memory_is_a_warning(book, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("luthier.run.cost.total_memory", lambda device: 1000)
    train.start(plan(book, steps=1), tmp_path / "run")
    assert "luthier: warning: the run needs about 0.0 GB of memory" in capsys.readouterr().err


def test_a_folder_that_is_in_use_or_cannot_be_written_is_named(book, tmp_path):
    out = tmp_path / "run"
    train.start(plan(book, steps=1), out)
    before = (out / "metrics.jsonl").read_bytes()
    with pytest.raises(LuthierError, match=r"exists: go on with resume, or name another folder \(out\)"):
        train.start(plan(book, steps=1), out)
    assert (out / "metrics.jsonl").read_bytes() == before
    with pytest.raises(LuthierError, match=r"book\.txt exists: name another folder"):
        train.start(plan(book), book)
    with pytest.raises(LuthierError, match="cannot be written: Not a directory"):
        train.start(plan(book), book / "run")


def test_a_page_that_cannot_be_written_is_named_at_the_end(book, tmp_path, monkeypatch, capsys):
    def full(folder: object) -> None:
        raise LuthierError(f"cannot write {folder}/report.html: No space left on device")

    monkeypatch.setattr("luthier.run.last_pages.write_report", full)
    out = train.start(plan(book, steps=1), tmp_path / "run")
    said = capsys.readouterr().out
    assert f"picture   {out / 'losses.png'}\n" in said
    assert f"missing   report.html: cannot write {out / 'report.html'}: No space left on device" in said
    assert f"write it with: luthier report {out}" in said


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_state(book, tmp_path):
    burst = plan(book, steps=8, eval_interval=2, learning_rate=1e30, warmup=0)
    with pytest.raises(LuthierError, match="lower learning_rate") as error:
        train.start(burst, tmp_path / "run")
    assert f"The last good state is in {tmp_path / 'run/checkpoints/step-00000000'}" in str(error.value)
    assert all(weight.isfinite().all() for weight in luthier.load(tmp_path / "run").model.parameters())
    assert [path.name for path in (tmp_path / "run").glob("checkpoints/*")] == ["step-00000000"]


def test_a_loss_that_is_no_number_in_the_middle_names_step_and_batch(book, tmp_path, monkeypatch):
    before = train.Run.one_step

    def one_step(run):
        if run.trainer.step == 6:
            run.lm.model.embedding.weight.data.fill_(float("nan"))
        before(run)

    monkeypatch.setattr(train.Run, "one_step", one_step)
    with pytest.raises(LuthierError, match=r"^step 7: the loss of batch 7 is nan: .*checkpoints/step-00000006$"):
        train.start(plan(book), tmp_path / "run")


@pytest.mark.slow
def test_tensorboard_gets_the_metrics_and_is_asked_for_before_anything_is_made(book, tmp_path, monkeypatch):
    with monkeypatch.context() as without:
        without.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
        with pytest.raises(LuthierError, match=r"TensorBoard is not installed: pip install 'luthier\[tensorboard\]'"):
            train.start(plan(book, tensorboard=True), tmp_path / "without")
        assert not (tmp_path / "without").exists()
    out = train.start(plan(book, tensorboard=True, steps=1), tmp_path / "run")
    [events] = (out / "tensorboard").iterdir()
    assert b"validation_loss" in events.read_bytes()
