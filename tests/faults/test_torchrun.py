"""torchrun with a process that dies: the others end too, and the run goes on by itself when it may restart."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tiny_runs import plan

from luthier.run import train

pytestmark = pytest.mark.slow


def torchrun(recipe: Path, out: Path, restarts: int) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "--max-restarts", str(restarts), "-m", "luthier", "train", "--recipe", str(recipe), "--out", str(out),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def kill_one(agent: int, checkpoints: Path) -> list[int]:
    """kill -9 the second process as soon as there is a checkpoint. Returns all the workers."""
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("step-*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers = [int(number) for number in Path(f"/proc/{agent}/task/{agent}/children").read_text().split()]
    os.kill(workers[-1], signal.SIGKILL)
    return workers


@pytest.fixture
def recipe(book, tmp_path) -> Path:
    path = tmp_path / "recipe.toml"
    chosen = plan(book, "gpt2-nano", batch_size=4, steps=60, save_interval=1, eval_interval=20, sample_interval=60)
    path.write_text(chosen.toml(), encoding="utf-8")
    return path


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to find the processes")
def test_when_a_process_dies_torchrun_goes_on_from_the_last_checkpoint(book, tmp_path, recipe):
    agent = torchrun(recipe, tmp_path / "run", restarts=1)
    kill_one(agent.pid, tmp_path / "run" / "checkpoints")
    said, _ = agent.communicate(timeout=200)
    assert agent.returncode == 0, said
    assert "resuming from" in said
    straight = train.start(
        plan(book, "gpt2-nano", batch_size=4, steps=60, save_interval=1, eval_interval=20, sample_interval=60),
        tmp_path / "straight",
    )
    last = "checkpoints/step-00000060/model.safetensors"
    weights = [safetensors.torch.load_file(path / last) for path in (straight, tmp_path / "run")]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], atol=2e-3, rtol=0)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to find the processes")
def test_a_process_that_dies_ends_the_others(tmp_path, recipe):
    agent = torchrun(recipe, tmp_path / "run", restarts=0)
    workers = kill_one(agent.pid, tmp_path / "run" / "checkpoints")
    said, _ = agent.communicate(timeout=100)
    assert agent.returncode != 0
    assert "process 0 lost another process" in said
    assert "Traceback (most recent call last):\n  File" not in said.partition("elastic")[0]
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_by_signal_saves_says_one_line_and_exits_with_130(book, tmp_path, number):
    path = tmp_path / "recipe.toml"
    path.write_text(plan(book, batch_size=4, steps=100_000, save_interval=50_000).toml(), encoding="utf-8")
    command = [
        sys.executable, "-m", "luthier", "torchrun", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1",
        "train", "--recipe", str(path), "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    agent = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    while not list((tmp_path / "run" / "checkpoints").glob("step-*")):  # that of step 0
        assert time.monotonic() < deadline
        assert agent.poll() is None
        time.sleep(0.05)
    agent.send_signal(number)
    _, said = agent.communicate(timeout=200)
    assert agent.returncode == 130, said
    assert "Traceback" not in said
    assert "Warning" not in said
    assert "saved in" in said
    assert f"luthier: stopped by {number.name}: all processes have ended" in said
    assert len(list((tmp_path / "run" / "checkpoints").glob("step-*"))) == 2


def test_a_process_that_fails_gives_its_exit_code(tmp_path):
    command = [
        sys.executable,
        "-m",
        "luthier",
        "torchrun",
        "--standalone",
        "--nproc-per-node",
        "2",
        "train",
        "--nonsense",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "ended with exit code 2; its own message is above" in done.stderr
