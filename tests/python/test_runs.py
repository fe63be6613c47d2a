"""Runs in Python: `luthier.train`, `open_run` and `plan` do what the verbs do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_runs import LLAMA, OPTIONS, records

import luthier
from luthier.cli.main import main
from luthier.errors import LuthierError, UsageError

FLAGS = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
FLAGS += [f"--model.{name.replace('_', '-')}={value}" for name, value in LLAMA.items()]
STOPPED = """
import luthier
try:
    luthier.train("book.txt", out="runs/long", model={model!r}, **{options!r})
except KeyboardInterrupt as stopped:
    print("stopped:", stopped)
else:
    raise SystemExit("not stopped")
step = luthier.open_run("runs/long").metrics[-1]["step"]
run = luthier.train(out="runs/long", resume=True, steps=step + 50)
print("alive", run)
"""


def test_a_call_gives_the_run_that_the_command_gives(place):
    run = luthier.train("book.txt", out="a", model=LLAMA, **OPTIONS)
    assert main(["train", "book.txt", "--out", "b", *FLAGS]) == 0
    assert records(Path("a/metrics.jsonl")) == records(Path("b/metrics.jsonl"))
    assert Path("a/run.toml").read_text() == Path("b/run.toml").read_text()
    assert run.folder == Path("a")


def test_a_run_shows_what_it_is(place):
    run = luthier.open_run("runs/book")
    best = min(look["validation_loss"] for look in run.metrics)
    assert repr(run).startswith("TrainedRun('runs/book': llama-nano, ")
    assert f"step 8 of 8, best validation loss {best:.4f} at step " in repr(run)
    assert "<th>parameters</th>" in run._repr_html_()
    assert run.plot().axes[0].lines
    assert run.report() == Path("runs/book/report.html")
    assert run.samples[-1]["prompt"]
    assert run.plan.settings.batch_size == 2
    assert repr(run.model).startswith("LanguageModel(llama, ")


def test_metrics_become_a_frame_where_pandas_is_there(place):
    metrics = luthier.open_run("runs/book").metrics
    try:
        import pandas  # noqa: F401
    except ImportError:
        with pytest.raises(LuthierError, match="pip install pandas"):
            metrics.frame()
    else:
        assert list(metrics.frame()["step"]) == [look["step"] for look in metrics]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: luthier.train("book.txt", lerning_rate=1), "no setting lerning_rate: did you mean learning_rate?"),
        (lambda: luthier.train("book.txt", steps="many"), "steps: Expected `int`, got `str`"),
        (lambda: luthier.train("book.txt", model={"dims": 3}), "no setting dims"),
        (lambda: luthier.train("book.txt", anyway=True), "anyway=True is for resume=True"),
        (lambda: luthier.train(resume=True, recipe="demo"), "leave recipe out"),
        (lambda: luthier.train("book.txt", from_model="runs/book", preset="gpt2-nano"), "contradicts from_model"),
        (lambda: luthier.train("book.txt", from_model="runs/book", tokenizer="bpe"), "contradicts from_model"),
        (lambda: luthier.train(out="runs/book", resume=True, seed=3), "seed is 1, not 3"),
        (lambda: luthier.train(out="runs/book", resume=True, sed=3), "no setting sed"),
        (lambda: luthier.open_run("nowhere"), "no run"),
        (lambda: luthier.plan("book.txt", preset="lama-nano"), "did you mean 'llama-nano'"),
    ],
)
def test_what_is_wrong_is_said_in_the_names_of_python(place, call, message):
    with pytest.raises(LuthierError) as caught:
        call()
    assert message in str(caught.value)
    assert "--" not in str(caught.value)


def test_a_finished_run_is_a_clear_error(place):
    with pytest.raises(LuthierError, match="give more steps or epochs"):
        luthier.train(out="runs/book", resume=True)
    with pytest.raises(LuthierError, match=r"exists: go on with resume=True|exists: go on with resume"):
        luthier.train("book.txt", out="runs/book", model=LLAMA, **OPTIONS)


def test_continued_pretraining_takes_a_path(place):
    run = luthier.train(
        Path("book.txt"), out=Path("new"), from_model=Path("runs/book"), steps=2, batch_size=2, compile="no",
        precision="float32", eval_batches=1, sample_tokens=2,
    )  # fmt: skip
    assert run.plan.settings.from_model == "runs/book"
    assert run.plan.name == "llama from runs/book"


def test_plan_is_a_table(place):
    cost = luthier.plan(["book.txt"], model=LLAMA, **OPTIONS)
    assert cost.steps == 8
    assert repr(cost).splitlines()[1].startswith("parameters ")
    assert "<td>llama-nano on" in cost._repr_html_()


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_an_interrupt_saves_and_the_program_goes_on(place):
    """As in a notebook: the stop button sends SIGINT, and the kernel stays."""
    code = STOPPED.format(model=LLAMA, options={**OPTIONS, "steps": 100_000, "save_interval": 100_000})
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics, end = Path("runs/long/metrics.jsonl"), time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 2) and time.monotonic() < end:
        time.sleep(0.05)
    program.send_signal(signal.SIGINT)
    out, error = program.communicate(timeout=200)
    assert program.returncode == 0, error
    stopped = next(line for line in out.splitlines() if line.startswith("stopped: "))
    assert "saved in runs/long/checkpoints/step-" in stopped
    assert stopped.endswith("resume with: luthier.train(out='runs/long', resume=True)")
    assert "alive TrainedRun('runs/long'" in out
    assert "\x1b" not in out + error


def test_importing_the_package_and_listing_its_names_loads_no_torch():
    code = "import sys, luthier; names = dir(luthier); assert 'train' in names and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = luthier.trian


def test_usage_errors_are_luthier_errors():
    assert issubclass(UsageError, luthier.LuthierError)
