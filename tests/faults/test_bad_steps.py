"""Losses that are no numbers, and spikes: stop, leave the batch out, or go back."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import pytest
from tiny_runs import plan, records

from luthier.run import train, training_run
from luthier.training.loop import NonFiniteError, Trainer
from luthier.training.spikes import LEAST, SpikeDetector


def spoil(monkeypatch, bad: set[int], factor: float) -> None:
    """Multiply the loss of these batches, counted from 0 in the order of the data."""
    right = Trainer.loss

    def loss(trainer, batch):
        computed = right(trainer, batch)
        number = trainer.batches.state()["batches"] - 1
        wrong = trainer.model.training and number in bad
        return replace(computed, sum=computed.sum * factor) if wrong else computed

    monkeypatch.setattr(Trainer, "loss", loss)


@pytest.mark.parametrize("policy", ["skip", "rewind"])
def test_a_batch_whose_loss_is_no_number_is_left_out(book, tmp_path, monkeypatch, capsys, policy):
    spoil(monkeypatch, {5}, math.nan)
    out = train.start(plan(book, save_interval=2, non_finite=policy), tmp_path / "run")
    warning = capsys.readouterr().err
    assert "the loss of batch 6 is nan" in warning
    assert ("skipped" if policy == "skip" else "Going back to") in warning
    assert [look["step"] for look in records(out / "metrics.jsonl")][-1] == 8
    assert all(math.isfinite(look["train_loss"]) for look in records(out / "metrics.jsonl"))


def test_it_stops_the_run_unless_told_otherwise(book, tmp_path, monkeypatch):
    spoil(monkeypatch, {5}, math.nan)
    with pytest.raises(NonFiniteError, match="the loss of batch 6 is nan"):
        train.start(plan(book), tmp_path / "run")


def test_going_back_keeps_the_score_of_the_best_weights(book, tmp_path, monkeypatch):
    """Those on the disk are still the best: a worse look must not write over them."""
    spoil(monkeypatch, {5}, math.nan)
    seen = []
    right, go_back = training_run.newest, train.Run.go_back

    def worse(folder, world):
        checkpoint, tensors, record = right(folder, world)
        return checkpoint, tensors, msgspec.structs.replace(record, best=None, seconds=1e9)

    def watched(run):
        before = run.callbacks.evaluate.best
        path = go_back(run)
        seen.append((run.callbacks, before))
        assert run.callbacks.clock.seconds < 1e9
        return path

    monkeypatch.setattr(training_run, "newest", worse)
    monkeypatch.setattr(train.Run, "go_back", watched)
    train.start(plan(book, save_interval=2, eval_interval=1, non_finite="rewind"), tmp_path / "run")
    [(callbacks, best)] = seen
    assert callbacks.evaluate.best <= best < math.inf


@pytest.mark.parametrize("policy", ["skip", "rewind"])
def test_no_policy_goes_on_for_ever(book, tmp_path, monkeypatch, policy):
    spoil(monkeypatch, set(range(4, 1000)), math.nan)
    with pytest.raises(NonFiniteError, match="The last good state is in"):
        train.start(plan(book, save_interval=2, non_finite=policy), tmp_path / "run")


def test_leaving_a_batch_out_changes_nothing_else(book, tmp_path, monkeypatch):
    """Stopped and resumed after the batch that was left out, the run is still the same."""
    spoil(monkeypatch, {3}, math.inf)
    chosen = plan(book, "gpt2-nano", save_interval=2, non_finite="skip")
    straight = train.start(chosen, tmp_path / "straight")
    short = train.start(
        plan(book, "gpt2-nano", save_interval=2, non_finite="skip", schedule="constant"), tmp_path / "a"
    )
    assert (straight / "checkpoints/step-00000008/model.safetensors").is_file()
    (short / "checkpoints/step-00000008/training_state.json").unlink()  # as if it had been killed while saving
    again = train.resume(short, {}, {}, ())
    other = train.start(
        plan(book, "gpt2-nano", save_interval=2, non_finite="skip", schedule="constant"), tmp_path / "b"
    )
    name = "checkpoints/step-00000008/model.safetensors"
    assert (again / name).read_bytes() == (other / name).read_bytes()


@pytest.mark.parametrize(("policy", "said"), [("log", "is a spike"), ("rewind", "Going back to")])
def test_a_spike_is_seen_and_the_policy_followed(book, tmp_path, monkeypatch, capsys, policy, said):
    spoil(monkeypatch, {LEAST + 5}, 50.0)
    train.start(plan(book, steps=LEAST + 12, save_interval=10, spikes=policy), tmp_path / "run")
    assert said in capsys.readouterr().err


def test_a_spike_can_stop_the_run(book, tmp_path, monkeypatch):
    spoil(monkeypatch, {LEAST + 5}, 50.0)
    with pytest.raises(NonFiniteError, match="is a spike"):
        train.start(plan(book, steps=LEAST + 12, save_interval=10, spikes="stop"), tmp_path / "run")


def test_a_falling_loss_has_no_spikes_and_a_jump_is_one():
    detector = SpikeDetector()
    assert not any(detector.sees(4.0 - 0.01 * step + 0.05 * (-1) ** step) for step in range(200))
    assert detector.sees(5.0)
    assert not detector.sees(2.0)
