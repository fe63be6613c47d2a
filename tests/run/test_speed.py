"""When to compile, decided on fake timings."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import msgspec
import pytest
import torch

from luthier.run import speed
from luthier.run.callbacks.step_statistics import StepStatistics
from luthier.run.checkpoint_record import Decisions
from luthier.run.plan import resolve
from luthier.run.resuming import decide
from luthier.training.distributed import ALONE
from luthier.training.loop import StepResult
from luthier.training.settings import Settings


class FakeTrainer:
    """At some step of so many, and counts how often it was asked to compile."""

    world = ALONE

    def __init__(self, total: int, step: int = 0) -> None:
        self.device, self.step, self.total_steps, self.compiled = torch.device("cpu"), step, total, 0

    def compile(self) -> None:
        self.compiled += 1


@pytest.fixture(autouse=True)
def _a_compiler(monkeypatch):
    monkeypatch.setattr(speed, "has_compiler", lambda device: True)
    monkeypatch.setattr(speed.torch, "compile", lambda function: function)  # the trial
    monkeypatch.setattr(speed, "time_gradients", lambda trainer, dtype: 0.1)


@pytest.mark.parametrize(
    ("trainer", "settings", "compiled"),
    [
        (FakeTrainer(10_000), {}, True),  # 1000 s are ahead: a fifth is won, far more than compiling takes
        (FakeTrainer(1000), {}, False),
        (FakeTrainer(1000), {"gradient_accumulation_steps": 10}, True),
        (FakeTrainer(10_000, step=9000), {}, False),  # a run that goes on, near its end
        (FakeTrainer(10), {"compile": "yes"}, True),
        (FakeTrainer(10**6), {"compile": "no"}, False),
    ],
)
def test_it_compiles_when_what_is_left_is_long_enough_to_win_the_time_back(trainer, settings, compiled, capsys):
    assert speed.choose_compiling(trainer, Settings(**settings)) == compiled
    said = capsys.readouterr().out
    assert ("compiling the blocks: " in said) == (compiled and "compile" not in settings)


def test_a_run_that_goes_on_takes_the_decision_that_it_was_begun_with():
    plan = resolve()
    was = Decisions("cpu", 1, compiled=True, parallel="ddp", processes=1)
    short = FakeTrainer(60, step=50)
    assert decide(short, plan, was, set())[1]
    assert not decide(FakeTrainer(10**6), plan, replace_decision(was, compiled=False), set())[1]
    assert decide(FakeTrainer(10**6), plan, replace_decision(was, compiled=False), {"steps"})[1]  # made much longer
    assert decide(short, plan, was, {"steps"})[1]  # what is compiled stays so
    no = replace(plan, settings=replace(plan.settings, compile="no"))
    assert not decide(short, no, was, {"compile"})[1]


def replace_decision(decisions, **values):
    return msgspec.structs.replace(decisions, **values)


def test_without_a_compiler_it_says_so_and_goes_on(monkeypatch, capsys):
    monkeypatch.setattr(speed, "has_compiler", lambda device: False)
    trainer = FakeTrainer(10**6)
    assert not speed.choose_compiling(trainer, Settings())
    assert not speed.compile_blocks(trainer)
    assert trainer.compiled == 0
    assert capsys.readouterr().out.count("no C++ compiler here: training uncompiled") == 2


def test_compiling_that_fails_in_a_trial_is_said_and_left_out(monkeypatch, capsys):
    def fails(function):
        raise RuntimeError("no linker\nand much more")

    trainer = FakeTrainer(10)
    assert speed.compile_blocks(trainer)
    assert trainer.compiled == 1
    monkeypatch.setattr(speed.torch, "compile", fails)
    assert not speed.compile_blocks(trainer)
    assert "compiling does not work here (no linker)" in capsys.readouterr().out


@pytest.mark.parametrize(("float32", "chosen"), [(1.0, "float32"), (3.0, "bfloat16")])
def test_the_faster_type_is_chosen_where_both_can_be_had(monkeypatch, float32, chosen):
    monkeypatch.setattr(speed, "has_fast_bfloat16", lambda device: True)
    times = {torch.float32: float32, torch.bfloat16: 2.0}
    monkeypatch.setattr(speed, "time_gradients", lambda trainer, dtype: times[dtype])
    assert speed.choose_precision(FakeTrainer(1000), Settings()).precision == chosen
    assert speed.choose_precision(FakeTrainer(1000), Settings(precision="float32")).precision == "float32"


def test_without_units_for_bfloat16_it_is_float32(monkeypatch):
    monkeypatch.setattr(speed, "has_fast_bfloat16", lambda device: False)
    settings = Settings(seed=4)
    assert speed.choose_precision(FakeTrainer(1000), settings) == replace(settings, precision="float32")


def test_speed_is_the_median_and_its_share_of_the_peak():
    recent = [StepResult(1.0, 2.0, 1e-3, 100, seconds) for seconds in (1.0, 0.5, 50.0)]
    statistics = StepStatistics(SimpleNamespace(), flops_per_token=10)  # type: ignore[arg-type]
    statistics.peak = 2000.0
    for result in recent:
        statistics.after_step(result)
    found = statistics.metrics()
    assert (found["tokens_per_second"], found["peak_share"]) == (100, 0.5)
    assert statistics.metrics() == {}
