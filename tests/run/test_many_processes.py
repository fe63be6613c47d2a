"""Several processes, by torchrun on the CPU: the same run as one process makes."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tiny_runs import plan, records

from luthier.errors import UsageError
from luthier.run import train
from luthier.run.plan import Plan

pytestmark = pytest.mark.slow
FIELDS = ("train_loss", "validation_loss", "step_loss", "gradient_norm")


@pytest.fixture(scope="module")
def processes():
    """New processes with everything imported, in a few milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["luthier.run.train"])
    return context


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def rank_of(rank: int, size: int, port: int, chosen: Plan | None, out: Path, options: dict, fault: int) -> None:
    """One process, told of the others as torchrun does."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    torch.set_num_threads(1)
    if chosen is not None:
        train.start(chosen, out)
    else:
        train.resume(out, options, {}, ())


def together(processes, size: int, chosen: Plan | None, out: Path, **options) -> Path:
    port = free_port()
    ranks = [
        processes.Process(target=rank_of, args=(rank, size, port, chosen, out, options, 0)) for rank in range(size)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        assert process.exitcode == 0
    return out


def same(one: Path, other: Path, tolerance: float) -> None:
    """Two runs with the same losses and weights, but for the order in which numbers were added up."""
    for a, b in zip(records(one / "metrics.jsonl"), records(other / "metrics.jsonl"), strict=True):
        assert a["step"] == b["step"]
        assert a["tokens"] == b["tokens"]
        for name in FIELDS:
            if name in a:
                assert a[name] == pytest.approx(b[name], abs=tolerance), (a["step"], name)
    weights = [safetensors.torch.load_file(path / "model.safetensors") for path in (one, other)]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], atol=tolerance * 10, rtol=0)


CASES = {
    "gpt2 with dropout": ("gpt2-nano", {}, "ddp"),
    "llama, muon, accumulation": ("llama-nano", {"optimizer": "muon", "gradient_accumulation_steps": 2}, "ddp"),
    "mixture of experts": ("llama4-nano", {}, "ddp"),
    "padded documents": ("llama-nano", {"batches": "documents"}, "ddp"),
    "gpt2, sharded": ("gpt2-nano", {}, "fsdp"),
    "mixture of experts, sharded": ("llama4-nano", {"gradient_accumulation_steps": 2}, "fsdp"),
    "gpt2 with dropout, checkpointed": (
        "gpt2-nano",
        {"activation_checkpointing": True, "gradient_accumulation_steps": 2},
        "ddp",
    ),
    "mixture of experts, sharded, checkpointed": ("llama4-nano", {"activation_checkpointing": True}, "fsdp"),
}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_make_the_run_that_one_makes(book, tmp_path, processes, case):
    preset, options, way = CASES[case]
    one = train.start(plan(book, preset, batch_size=4, **options), tmp_path / "one")
    two = together(processes, 2, plan(book, preset, batch_size=4, parallel=way, **options), tmp_path / "two")
    same(one, two, 2e-4)
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in two.iterdir())


@pytest.mark.filterwarnings("ignore:.*has no effect. one process trains alone:luthier.errors.Remark")
@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_a_run_goes_on_with_another_number_of_processes(book, tmp_path, processes, way):
    def chosen(steps: int, parallel: str = "auto") -> Plan:
        return plan(book, "gpt2-nano", batch_size=4, schedule="constant", steps=steps, parallel=parallel)

    straight = train.start(chosen(12), tmp_path / "straight")
    out = together(processes, 2, chosen(4, way), tmp_path / "moved")
    train.resume(out, {"steps": 8}, {}, ())
    together(processes, 2, None, out, steps=12)
    last = "checkpoints/step-00000012/model.safetensors"
    weights = [safetensors.torch.load_file(path / last) for path in (straight, out)]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], atol=2e-3, rtol=0)
    state = json.loads((out / "checkpoints/step-00000012/training_state.json").read_text())
    assert state["trainer"]["batches"]["batches"] == 12


def test_what_cannot_be_shared_is_refused_and_what_does_not_fit_is_cut():
    from luthier.training.distributed import World, check, choose_strategy

    with pytest.raises(UsageError, match="batch_size 3 cannot be shared by 2 processes"):
        check(World(0, 2), 3, "adamw", "auto")
    assert choose_strategy("auto", 10**9, 24 * 10**9) == "ddp"
    assert choose_strategy("auto", 7 * 10**9, 80 * 10**9) == "fsdp"
    assert choose_strategy("ddp", 7 * 10**9, 80 * 10**9) == "ddp"
    with pytest.raises(UsageError, match="Muon needs whole matrices"):
        check(World(0, 2), 4, "muon", "fsdp")
