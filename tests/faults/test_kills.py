"""kill -9 at any moment: the run goes on from what is whole, and ends as if nothing had been."""

from __future__ import annotations

import multiprocessing
import random
import time
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pytest
from tiny_runs import plan, records

from luthier.errors import LuthierError
from luthier.run import train
from luthier.run.plan import Plan

KILLS = {"gpt2-nano": 20, "llama4-nano": 5}
STEPS = 300


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """New processes with everything imported, in a few milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["luthier.run.train"])
    return context


def go(chosen: Plan, out: Path) -> None:
    """Begin the run, or go on with it."""
    import torch

    torch.set_num_threads(1)
    if list((out / "checkpoints").glob("step-*")):
        train.resume(out, {}, {}, ())
    else:
        if out.exists():  # killed before its first checkpoint
            import shutil

            shutil.rmtree(out)
        train.start(chosen, out)


def started(processes: ForkServerContext, chosen: Plan, out: Path) -> ForkServerProcess:
    process = processes.Process(target=go, args=(chosen, out))
    process.start()
    return process


@pytest.mark.slow
@pytest.mark.parametrize("preset", KILLS)
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(book, tmp_path, processes, preset):
    chosen = plan(book, preset, steps=STEPS, save_interval=1, eval_interval=50, sample_interval=150, threads=1)
    straight = tmp_path / "straight"
    started(processes, chosen, straight).join()
    draw, out = random.Random(7), tmp_path / "killed"
    for _ in range(KILLS[preset]):
        process = started(processes, chosen, out)
        time.sleep(0.2 + draw.random() * 0.4)  # the start takes about 0.2 s, a step with its save 0.01 s
        assert process.is_alive()
        process.kill()
        process.join()
    last = started(processes, chosen, out)
    last.join()
    assert last.exitcode == 0
    name = f"checkpoints/step-{STEPS:08d}"
    for file in ("model.safetensors", f"{name}/model.safetensors", f"{name}/training_state.safetensors"):
        assert (out / file).read_bytes() == (straight / file).read_bytes(), file
    assert records(out / "metrics.jsonl") == records(straight / "metrics.jsonl")
    assert not list((out / "checkpoints").glob(".*"))


@pytest.mark.slow
def test_a_run_in_use_is_refused_and_one_whose_process_died_is_not(book, tmp_path, processes):
    chosen, out = plan(book, steps=3000, save_interval=1), tmp_path / "run"
    process = started(processes, chosen, out)
    while not list((out / "checkpoints").glob("step-*")):
        assert process.is_alive()
        time.sleep(0.02)
    with pytest.raises(LuthierError, match="is in use by another process"):
        train.resume(out, {}, {}, ())
    process.kill()
    process.join()
    reached = int(max((out / "checkpoints").glob("step-*")).name.removeprefix("step-"))
    train.resume(out, {"steps": reached + 2}, {}, ())
