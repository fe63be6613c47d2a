"""What `auto` settings came to belongs to the run: it is recorded, and taken from the first resumed step."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_runs import plan

from luthier.files.sealed_json import sealed
from luthier.run import resuming, speed, train
from luthier.run.checkpoint_record import Decisions, newest_record
from luthier.run.training_run import choose_parallel
from luthier.training.distributed import World
from luthier.training.loop import Trainer
from luthier.training.machine import has_compiler

STEPS = 56  # long enough to be timed
AUTO = {"device": "auto", "precision": "auto", "compile": "auto", "parallel": "auto", "threads": 0, "split_by": "auto"}


def timings(monkeypatch, low: float, high: float) -> None:
    """Let a pass in bfloat16 seem to take `low` seconds and one in float32 `high`."""
    times = {torch.bfloat16: low, torch.float32: high}
    monkeypatch.setattr(speed, "time_gradients", lambda trainer, dtype: times[dtype])
    monkeypatch.setattr(speed, "has_fast_bfloat16", lambda device: True)


def stopped_and_resumed(book, tmp_path, monkeypatch, chosen, at: int = 20) -> tuple[Path, Path]:
    """(a run that never stopped, one that was killed after a step and resumed when the timings say otherwise)."""
    timings(monkeypatch, 100.0, 200.0)
    straight = train.start(chosen, tmp_path / "straight")
    before = train.Run.one_step

    def one_step(run):
        if run.trainer.step == at:
            run.callbacks.writer.flush()
            raise SystemExit(9)
        before(run)

    with monkeypatch.context() as killed:
        killed.setattr(train.Run, "one_step", one_step)
        with pytest.raises(SystemExit):
            train.start(chosen, tmp_path / "stopped")
    timings(monkeypatch, 0.002, 0.001)
    return straight, train.resume(tmp_path / "stopped", {}, {}, ())


def same(one: Path, other: Path) -> None:
    for name in ("model.safetensors", "training_state.safetensors"):
        file = f"checkpoints/step-{STEPS:08d}/{name}"
        assert (one / file).read_bytes() == (other / file).read_bytes(), name
    assert (one / "run.toml").read_text() == (other / "run.toml").read_text()


@pytest.mark.parametrize("at", [0, 2, 20])
def test_precision_and_compiling_are_taken_from_the_first_resumed_step(book, tmp_path, monkeypatch, at):
    compiled = []
    monkeypatch.setattr(speed, "has_compiler", lambda device: True)
    monkeypatch.setattr(speed.torch, "compile", lambda function: function)  # the trial
    monkeypatch.setattr(Trainer, "compile", lambda trainer: compiled.append(trainer.step))
    chosen = plan(book, steps=STEPS, save_interval=1, eval_interval=28, sample_interval=56, **AUTO)
    straight, resumed = stopped_and_resumed(book, tmp_path, monkeypatch, chosen, at)
    same(straight, resumed)
    assert compiled == [0, 0, at]
    assert newest_record(resumed).decisions.compiled
    assert newest_record(resumed).settings["precision"] == "bfloat16"
    assert newest_record(resumed).settings["compile"] == "auto"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore:The .grad attribute")  # the compiler's own
@pytest.mark.skipif(not has_compiler(torch.device("cpu")), reason="no C++ compiler")
def test_a_run_that_compiles_goes_on_bit_for_bit(book, tmp_path, monkeypatch):
    chosen = plan(book, steps=STEPS, save_interval=10, eval_interval=28, sample_interval=56, **AUTO)
    same(*stopped_and_resumed(book, tmp_path, monkeypatch, chosen))


def test_as_many_threads_as_the_run_had_are_taken(monkeypatch, capsys):
    monkeypatch.setattr(resuming.os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    try:
        resuming.take_threads(2)
        assert torch.get_num_threads() == 2
        assert "resuming with 2 CPU threads, as the run did (threads=1 takes those of now)" in capsys.readouterr().out
        resuming.take_threads(64)  # of a larger machine
        assert torch.get_num_threads() == 2
        assert "of the 64 that the run had; sums may be rounded differently" in capsys.readouterr().out
    finally:
        torch.set_num_threads(1)
    resuming.take_threads(1)
    assert capsys.readouterr().out == ""


def test_a_device_that_is_not_here_any_more_is_said(book, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run = train.start(plan(book), tmp_path / "run")
    path = run / "checkpoints" / "step-00000008" / "training_state.json"
    record = json.loads(path.read_text())
    record["decisions"]["device"] = "cuda"
    path.write_text(json.dumps(sealed(record)))
    train.resume(run, {"steps": 9}, {}, ())
    assert "the run was trained on cuda, which is not available here: continuing on cpu" in capsys.readouterr().err


def test_as_many_processes_share_the_model_in_the_same_way():
    was = Decisions("cpu", 1, compiled=False, parallel="fsdp", processes=2)
    lm = SimpleNamespace(model=torch.nn.Linear(2, 2), device=torch.device("cpu"))

    def chosen(size: int, parallel: str = "auto") -> str:
        return choose_parallel(parallel, lm, World(0, size), was)

    assert (chosen(2), chosen(3), chosen(2, "ddp")) == ("fsdp", "ddp", "ddp")


@pytest.fixture
def ended(book, tmp_path):
    return train.start(plan(book), tmp_path / "run")


def rates(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["learning_rate"] for line in lines if "learning_rate" in line]


def test_a_learning_rate_that_rises_again_is_said_and_shown(ended, capsys):
    train.resume(ended, {"steps": 16, "eval_interval": 1}, {}, ())
    shown, said = capsys.readouterr()
    assert "learning rate 5.03e-03" in shown  # in the log
    assert "the learning rate changes from 1.00e-03 (step 8) to 5.03e-03 (step 9): cosine over 16 steps" in said
    assert "schedule='continue' goes on from where it is" in said


def test_the_schedule_continue_goes_on_from_where_it_is(book, tmp_path, capsys):
    run = train.start(plan(book, steps=8, schedule="constant"), tmp_path / "run")
    straight = Path(shutil.copytree(run, tmp_path / "straight"))
    capsys.readouterr()
    train.resume(straight, {"steps": 13, "eval_interval": 1, "schedule": "continue"}, {}, ())
    assert "the learning rate changes" not in capsys.readouterr().err
    found = rates(straight)[-5:]
    assert found == pytest.approx([0.0082, 0.0064, 0.0046, 0.0028, 0.001])
    before = train.Run.one_step

    def one_step(going):
        if going.trainer.step == 11:
            going.callbacks.writer.flush()
            raise KeyboardInterrupt
        before(going)

    with pytest.MonkeyPatch.context() as killed:
        killed.setattr(train.Run, "one_step", one_step)
        with pytest.raises(KeyboardInterrupt):
            train.resume(run, {"steps": 13, "eval_interval": 1, "schedule": "continue"}, {}, ())
    train.resume(run, {}, {}, ())  # stopped in its middle, it is the same line
    assert rates(run)[-5:] == found
    train.resume(run, {"steps": 15}, {}, ())  # and longer again, it does not rise
    assert rates(run)[-1] == pytest.approx(0.001)
