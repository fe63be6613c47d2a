"""When to compile, decided on fake timings."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from luthier.run import speed
from luthier.training.distributed import ALONE
from luthier.training.loop import StepResult
from luthier.training.settings import Settings


class FakeTrainer:
    """Counts steps, and how often it was asked to compile."""

    world = ALONE

    def __init__(self, total: int) -> None:
        self.device, self.step, self.total_steps, self.compiled = torch.device("cpu"), 0, total, 0

    def compile(self) -> None:
        self.compiled += 1


@pytest.fixture(autouse=True)
def _a_compiler(monkeypatch):
    monkeypatch.setattr(speed, "has_compiler", lambda device: True)
    monkeypatch.setattr(speed.torch, "compile", lambda function: function)  # the trial


def steps(trainer: FakeTrainer, compiler: speed.Compiler, seconds: list[float]) -> None:
    recent = []
    for each in seconds:
        trainer.step += 1
        recent.append(StepResult(1.0, 1.0, 1e-3, 100, each))
        compiler.stepped(recent)


@pytest.mark.parametrize(
    ("total", "seconds", "compiled"),
    [
        (10_000, [9.0, 0.1, 0.1], 1),  # 1000 s are left: a fifth is won, far more than compiling takes
        (1000, [9.0, 0.1, 0.1], 0),  # 100 s: the first, slow step must not count
        (10_000, [0.1, 0.1], 0),  # not yet known
        (10_000, [9.0, 0.1, 0.1, 0.1, 0.1], 1),  # once
    ],
)
def test_it_compiles_when_the_run_is_long_enough_to_win_the_time_back(total, seconds, compiled, capsys):
    trainer = FakeTrainer(total)
    steps(trainer, speed.Compiler(trainer, Settings()), seconds)
    assert trainer.compiled == compiled
    assert ("compiling the blocks with the next step" in capsys.readouterr().out) == bool(compiled)


def test_yes_compiles_at_once_and_no_never():
    trainer = FakeTrainer(10)
    speed.Compiler(trainer, Settings(compile="yes"))
    assert trainer.compiled == 1
    trainer = FakeTrainer(10**6)
    steps(trainer, speed.Compiler(trainer, Settings(compile="no")), [1.0] * 5)
    assert trainer.compiled == 0


def test_without_a_compiler_it_says_so_and_goes_on(monkeypatch, capsys):
    monkeypatch.setattr(speed, "has_compiler", lambda device: False)
    trainer = FakeTrainer(10**6)
    steps(trainer, speed.Compiler(trainer, Settings(compile="yes")), [1.0] * 5)
    assert trainer.compiled == 0
    assert "no C++ compiler here: training uncompiled" in capsys.readouterr().out


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
    found = SimpleNamespace(**speed.summary(recent, flops_per_token=10, peak=2000.0))
    assert (found.tokens_per_second, found.peak_share) == (100, 0.5)
