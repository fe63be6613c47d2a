"""What happens around the steps of a run: in which order, how often, and what is restored."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
from tiny_runs import plan

from luthier.architectures import llama, registry
from luthier.data.batches import RandomWindows, evaluation_batches
from luthier.data.shards import TokenShards
from luthier.run import train
from luthier.run.callbacks.evaluate import Evaluate
from luthier.run.callbacks.expert_loads import ExpertLoads
from luthier.run.callbacks.step_statistics import StepStatistics
from luthier.run.callbacks.writer import BackgroundWriter
from luthier.run.intervals import Intervals
from luthier.run.token_splits import Split
from luthier.training.callback import Callback, Callbacks, StepUndoneError
from luthier.training.loop import StepResult, Trainer
from luthier.training.objective import LanguageModeling
from luthier.training.settings import Settings

RESULT = StepResult(1.0, 2.0, 1e-3, 100, 0.5, [[0.25, 0.75]])


class Named(Callback):
    """Notes what is asked of it."""

    def __init__(self, name: str, seen: list[str], *, undo: bool = False) -> None:
        self.name, self.seen, self.undo = name, seen, undo

    def after_step(self, result):
        self.seen.append(self.name)
        if self.undo:
            raise StepUndoneError

    def state(self):
        return {self.name: 1}


def test_callbacks_act_in_their_order_until_one_undoes_the_step():
    seen: list[str] = []
    callbacks = Callbacks(Named("a", seen), Named("b", seen, undo=True), Named("c", seen))
    with pytest.raises(StepUndoneError):
        callbacks.after_step(RESULT)
    assert seen == ["a", "b"]
    assert callbacks.state() == {"a": 1, "b": 1, "c": 1}


def test_the_state_of_all_callbacks_makes_the_next_evaluation_the_same():
    kept = Callbacks(StepStatistics(None, 10), ExpertLoads())  # type: ignore[arg-type]
    kept.after_step(RESULT)
    resumed = Callbacks(StepStatistics(None, 10), ExpertLoads())  # type: ignore[arg-type]
    resumed.restore(kept.state())
    for callbacks in (kept, resumed):
        callbacks.callbacks[0].peak = 1e3  # type: ignore[attr-defined]
    for one, other in zip(kept.callbacks, resumed.callbacks, strict=True):
        assert one.metrics() == other.metrics() != {}  # type: ignore[attr-defined]
        assert one.metrics() == {}  # type: ignore[attr-defined]


class Notes(Callback):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[dict] = []

    def evaluated(self, metrics):
        self.told.append(dict(metrics))

    def sampled(self, sample):
        self.told.append(dict(sample))


class TwoHalves(LanguageModeling):
    """Language modelling that also reports half of the loss."""

    def __call__(self, model, batch):
        loss = super().__call__(model, batch)
        return replace(loss, figures={"half": loss.sum / 2})


def test_figures_of_an_objective_are_in_the_metrics():
    tokens = TokenShards([np.arange(400, dtype=np.uint16) % 17], bytes=400)
    settings = Settings(batch_size=2, steps=4, eval_interval=2, precision="float32")
    model = registry.build(llama.Config(17, 8, 8, 12, n_layers=1, n_heads=2, n_kv_heads=1))
    source = RandomWindows(tokens, 8, 2, seed=1)
    trainer = Trainer(model, source, settings, 4, objective=TwoHalves())
    split = Split(tokens, lambda: evaluation_batches(tokens, 8, 2, 3))
    notes, statistics = Notes(), StepStatistics(trainer, 10)
    statistics.peak = 1e3
    evaluate = Evaluate(
        trainer, {"train": split, "validation": split}, Intervals.of(settings, 4, 10), at_start=True,
        meters=(statistics,), loggers=(notes,), save_best=lambda: None, last_good=str,
    )  # fmt: skip
    callbacks = Callbacks(statistics, evaluate)
    callbacks.begin()
    while trainer.step < 4:
        callbacks.after_step(trainer.train_step())
    assert [each["step"] for each in notes.told] == [0, 1, 2, 3, 4]
    for metrics in notes.told:
        for split_name in ("train", "validation"):
            assert metrics[f"{split_name}_half"] == pytest.approx(metrics[f"{split_name}_loss"] / 2, rel=1e-5)
    assert notes.told[-1]["step_half"] == pytest.approx(notes.told[-1]["step_loss"] / 2, rel=1e-5)
    assert "step_half" not in notes.told[0]


@pytest.mark.parametrize(
    ("settings", "evaluations", "samples", "checkpoints"),
    [
        ({"steps": 8, "eval_interval": 3, "sample_interval": 4}, [3, 4, 6, 8], [4, 8], [3, 6, 8]),
        ({"steps": 8, "eval_interval": 4, "sample_interval": 8, "save_interval": 5}, [4, 8], [8], [5, 8]),
        ({"epochs": 2, "eval_interval": 5}, [4, 5, 8], [4, 8], [5, 8]),
        ({"steps": 8}, list(range(1, 9)), [2, 4, 5, 7, 8], list(range(1, 9))),
    ],
)
def test_the_last_step_has_an_evaluation_a_sample_and_a_checkpoint(settings, evaluations, samples, checkpoints):
    intervals = Intervals.of(Settings(**settings), total_steps=8, steps_per_epoch=4)
    steps = range(1, 9)
    assert [step for step in steps if intervals.evaluation_due(step)] == evaluations
    assert [step for step in steps if intervals.sample_due(step)] == samples
    assert [step for step in steps if intervals.checkpoint_due(step)] == checkpoints


def test_a_write_that_fails_stops_the_run_at_its_next_step():
    writer = BackgroundWriter()
    writer.add(lambda: 1 / 0)
    writer.after_step(RESULT)
    for thread in threading.enumerate():
        if thread.name == "writer":
            thread.join()
    with pytest.raises(ZeroDivisionError):
        writer.before_step()


def test_only_the_first_process_writes():
    done = []
    writer = BackgroundWriter(active=False)
    writer.add(lambda: done.append(1))
    writer.flush()
    assert done == []


def test_callbacks_of_a_run_act_in_the_documented_order(book, tmp_path, monkeypatch):
    order: list[str] = []

    def train_nothing(run):
        order.extend(type(callback).__name__ for callback in run.callbacks.callbacks)

    monkeypatch.setattr(train.Run, "train", train_nothing)
    train.start(plan(book), tmp_path / "run")
    assert order == [
        "Clock", "StepStatistics", "ExpertLoads", "Console", "MetricsFile", "Recover", "Evaluate", "Sample",
        "Checkpoint", "BackgroundWriter",
    ]  # fmt: skip
