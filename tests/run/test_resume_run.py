"""Ctrl-C, and going on."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch
from tiny_runs import plan, records

import luthier
from luthier.errors import LuthierError, UsageError
from luthier.run import train
from luthier.run.callbacks.console import Console
from luthier.run.interrupt import InterruptedRunError

CASES = [
    {"preset": "gpt2-nano"},
    {"preset": "llama4-nano", "optimizer": "muon", "gradient_accumulation_steps": 2},
    {"preset": "qwen3moe-nano"},
    {"preset": "llama-nano", "batches": "sliding", "stride": 7, "save_interval": 2},
]


@pytest.fixture
def ctrl_c(monkeypatch):
    """Press Ctrl-C during a step, `times` times."""

    def at(step: int, times: int = 1) -> None:
        before = Console.after_step

        def after_step(console, result):
            before(console, result)
            if console.trainer.step == step:
                for _ in range(times):
                    os.kill(os.getpid(), signal.SIGINT)
                    time.sleep(0.05)  # so that the system does not take two for one

        monkeypatch.setattr(Console, "after_step", after_step)

    return at


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["preset"])
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(book, tmp_path, ctrl_c, monkeypatch, case):
    chosen = plan(book, **case)
    straight = train.start(chosen, tmp_path / "straight")
    with monkeypatch.context():
        ctrl_c(4)
        with pytest.raises(
            InterruptedRunError, match=r"stopped at step 4 of 8, saved in .*step-00000004; resume with: "
        ):
            train.start(chosen, tmp_path / "stopped")
        monkeypatch.undo()
    monkeypatch.setattr("luthier.run.callbacks.step_statistics.matrix_product_peak", lambda device, dtype: 1e11)
    stopped = train.resume(tmp_path / "stopped", {}, {}, ())
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert records(straight / name) == records(stopped / name)
    for name in ("model.safetensors", "checkpoints/step-00000008/model.safetensors",
                 "checkpoints/step-00000008/training_state.safetensors", "run.toml"):  # fmt: skip
        assert (straight / name).read_bytes() == (stopped / name).read_bytes(), name
    assert max(path.name for path in (stopped / "checkpoints").iterdir()) == "step-00000008"


def test_a_run_that_was_killed_forgets_what_came_after_its_checkpoint(book, tmp_path, monkeypatch):
    chosen = plan(book, save_interval=5)
    straight = train.start(chosen, tmp_path / "straight")
    before = train.Run.one_step

    def one_step(run):
        before(run)
        if run.trainer.step == 7:
            raise SystemExit(9)

    with monkeypatch.context() as killed:
        killed.setattr(train.Run, "one_step", one_step)
        with pytest.raises(SystemExit):
            train.start(chosen, tmp_path / "killed")
    killed = tmp_path / "killed"
    left = killed / "checkpoints" / ".step-00000006.part"
    left.mkdir()
    with (killed / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "tra')
    train.resume(killed, {}, {}, ())
    assert records(killed / "metrics.jsonl") == records(straight / "metrics.jsonl")
    assert records(killed / "samples.jsonl") == records(straight / "samples.jsonl")
    assert not left.exists()


def test_a_second_ctrl_c_stops_at_once(book, tmp_path, ctrl_c):
    ctrl_c(2, times=2)
    with pytest.raises(KeyboardInterrupt):
        train.start(plan(book), tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_in_the_last_step_lets_the_run_end(book, tmp_path, ctrl_c):
    ctrl_c(8)
    out = train.start(plan(book), tmp_path / "run")
    assert (out / "losses.png").is_file()


def test_ctrl_c_before_the_run_has_begun_leaves_nothing(book, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("luthier.run.speed.choose_precision", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train.start(plan(book), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def ended(book, tmp_path):
    return train.start(plan(book), tmp_path / "run")


def test_a_run_can_be_made_longer(ended):
    train.resume(ended, {"steps": 10, "eval_interval": 1}, {}, ())
    assert [look["step"] for look in records(ended / "metrics.jsonl")] == [0, 3, 4, 6, 8, 9, 10]
    assert luthier.load(ended / "checkpoints" / "step-00000010").generate("ka", max_new_tokens=3)
    with pytest.raises(LuthierError, match=r"is finished: it is at step 10 of 10; .* give more steps or epochs"):
        train.resume(ended, {}, {}, ())


@pytest.mark.parametrize(
    ("options", "model", "data", "complaint"),
    [
        ({"learning_rate": 0.5}, {}, (), "learning_rate is 0.01, not 0.5"),
        ({"seed": 9}, {}, (), "seed is 1, not 9"),
        ({}, {"dim": 16}, (), "model.dim is 8, not 16"),
        ({}, {}, ("other.txt",), "other.txt: no such file"),
        (
            {"seed": 9, "max_grad_norm": 0.5},
            {"dim": 16},
            (),
            "model.dim is 8, not 16; max_grad_norm is 1.0, not 0.5; seed is 1, not 9. Leave that out, or start another "
            "run (out); max_grad_norm, seed may change with anyway=True",
        ),
    ],
)
def test_what_would_make_another_run_is_refused_by_name(ended, options, model, data, complaint):
    before = (ended / "run.toml").read_bytes()
    with pytest.raises(LuthierError) as error:
        train.resume(ended, {"steps": 12, **options}, model, data)
    assert complaint in str(error.value)
    assert (ended / "run.toml").read_bytes() == before


def test_a_folder_that_is_no_run_or_has_no_checkpoint_is_named(ended, tmp_path):
    with pytest.raises(LuthierError, match="nowhere is not a run that can be resumed"):
        train.resume(tmp_path / "nowhere", {}, {}, ())
    for path in (ended / "checkpoints").rglob("training_state.json"):
        path.unlink()
    with pytest.raises(LuthierError, match="stopped before its first checkpoint: delete it and start again"):
        train.resume(ended, {"steps": 10}, {}, ())


def test_settings_of_training_may_change_when_it_is_asked_for(ended):
    with pytest.raises(UsageError, match="Leave that out, add anyway=True to go on so, or start"):
        train.resume(ended, {"steps": 10, "learning_rate": 0.5}, {}, ())
    train.resume(ended, {"steps": 10, "learning_rate": 0.5}, {}, (), anyway=True)
    assert "learning_rate = 0.5" in (ended / "run.toml").read_text()
    with pytest.raises(UsageError, match="tokenizer is characters, not bpe"):
        train.resume(ended, {"steps": 12, "tokenizer": "bpe"}, {}, (), anyway=True)


def test_other_tokens_than_those_of_the_run_are_refused(ended, book, tmp_path):
    longer = tmp_path / "longer.txt"
    longer.write_text(book.read_text() * 2, encoding="utf-8")
    other = train.start(plan(longer, steps=1), tmp_path / "other")
    for path in (ended / "tokens").iterdir():
        path.unlink()
    for path in (other / "tokens").iterdir():
        path.replace(ended / "tokens" / path.name)
    with pytest.raises(LuthierError, match=r"tokens has changed since the run was begun .*train tokens was .*, is "):
        train.resume(ended, {"steps": 10}, {}, ())
    train.resume(ended, {"steps": 10}, {}, (), anyway=True)


def test_the_global_generator_is_left_alone(book, tmp_path):
    before = torch.get_rng_state()
    train.start(plan(book, "gpt2-nano"), tmp_path / "run")
    assert torch.equal(before, torch.get_rng_state())
