"""A terminal or a pipe that goes away never costs training."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_runs import plan

pytestmark = pytest.mark.slow
STEPS = 40


@pytest.fixture
def train(book, tmp_path) -> list[str]:
    """The command of a run that takes some seconds."""
    recipe = tmp_path / "recipe.toml"
    chosen = plan(book, steps=STEPS, save_interval=5, eval_interval=1, sample_interval=10, batch_size=4)
    recipe.write_text(chosen.toml(), encoding="utf-8")
    return [sys.executable, "-m", "luthier", "train", "--recipe", str(recipe), "--out", str(tmp_path / "run")]


def last_checkpoint(run: Path) -> str:
    return max(path.name for path in (run / "checkpoints").glob("step-*"))


@pytest.mark.parametrize("shell", ["| head -1", ">&-", ">/dev/full", ">&- 2>&-", "2>&1 | head -1"])
def test_training_goes_on_to_its_end_without_its_output(train, tmp_path, shell):
    done = subprocess.run(
        ["bash", "-c", f'"$@" {shell}; exit ${{PIPESTATUS[0]}}', "train", *train], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert last_checkpoint(tmp_path / "run") == f"step-{STEPS:08}"
    assert (tmp_path / "run" / "report.html").is_file()
    if shell in ("| head -1", ">/dev/full"):
        assert len(done.stderr.splitlines()) == 1
        assert done.stderr.startswith("luthier: stdout is gone (")


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 200
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_training_goes_on_when_its_terminal_hangs_up(train, tmp_path):
    number, terminal = pty.fork()
    if number == 0:
        os.execv(train[0], train)
    wait_for(tmp_path / "run" / "metrics.jsonl")
    os.close(terminal)  # the system sends SIGHUP, and whatever is written from now on fails
    _, status = os.waitpid(number, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert last_checkpoint(tmp_path / "run") == f"step-{STEPS:08}"


def test_under_torchrun_a_hang_up_saves_first(train, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    train = [*torchrun, *train[1:], "--steps", "100000"]
    number, terminal = pty.fork()
    if number == 0:
        os.execve(train[0], train, {**os.environ, "OMP_NUM_THREADS": "1"})
    wait_for(tmp_path / "run" / "metrics.jsonl")
    os.close(terminal)
    os.waitpid(number, 0)
    stopped_at = int(last_checkpoint(tmp_path / "run").removeprefix("step-"))
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert f'"step": {stopped_at},' in metrics[-1]  # what was trained last is saved


def test_a_hang_up_that_the_person_has_forbidden_stays_forbidden(train, tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        process = subprocess.Popen(train, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_for(tmp_path / "run" / "metrics.jsonl")
    process.send_signal(signal.SIGHUP)
    assert process.wait() == 0
