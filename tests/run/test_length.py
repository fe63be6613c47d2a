"""A run that nobody gave a length: about three minutes here, said, and kept in its recipe."""

from __future__ import annotations

import pytest
from tiny_runs import plan, records

from luthier.run import length, train
from luthier.run.length import FEWEST, MOST_EPOCHS, Amount, length_of
from luthier.run.plan import read_run
from luthier.training.settings import Settings


def test_a_long_text_is_trained_on_for_three_minutes_evaluations_included():
    found = length_of(Settings(), 0.25, Amount(epoch_steps=10_000, evaluation_steps=16))
    assert found.seconds == pytest.approx(180, abs=1)
    assert found.steps == int((180 - 20 * 16 * 0.25 / 3) / 0.25)
    assert "about 3 min 0 s here and 6.1% of the text" in found.text()
    assert "(epochs=1 is 10,000 steps)" in found.text()


def test_evaluations_as_often_as_asked_for_are_counted():
    found = length_of(Settings(eval_interval=2), 0.25, Amount(10_000, 16))
    assert found.seconds == pytest.approx(180, abs=2)
    assert found.steps == int(180 / (0.25 + 16 * 0.25 / 3 / 2))


def test_a_short_text_is_passed_so_often_and_no_more():
    found = length_of(Settings(), 0.1, Amount(4, 8))
    assert (found.steps, found.epochs) == (4 * MOST_EPOCHS, MOST_EPOCHS)


def test_a_slow_model_makes_a_few_steps_all_the_same():
    assert length_of(Settings(), 40.0, Amount(10_000, 16)).steps == FEWEST


def test_a_run_without_a_length_gets_one_and_goes_on_with_it(book, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(length, "time_steps", lambda plan, device, dtype: 30.0)
    monkeypatch.setattr(length, "FEWEST", 4)
    out = train.start(plan(book, steps=0), tmp_path / "run")
    assert "4 steps, about 2 min" in " ".join(capsys.readouterr().out.split())
    assert read_run(out)["steps"] == 4
    assert records(out / "metrics.jsonl")[-1]["step"] == 4
    again = train.start(plan(book, steps=4), tmp_path / "again")  # timing a model has changed nothing
    assert records(again / "metrics.jsonl") == records(out / "metrics.jsonl")


def test_a_length_that_is_given_is_kept(book, tmp_path, monkeypatch):
    monkeypatch.setattr(length, "time_steps", lambda *_: pytest.fail("nothing is to be timed"))
    out = train.start(plan(book, epochs=1), tmp_path / "run")
    assert (read_run(out)["steps"], read_run(out)["epochs"]) == (0, 1.0)
