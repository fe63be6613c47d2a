"""Blocks that are computed a second time in the backward pass: the same training, in less memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_training import DROPOUT, LLAMA, MIXTURE, trainer
from torch.profiler import ProfilerActivity, profile

from luthier.training.machine import has_compiler

CASES = {
    "llama": {"config": LLAMA},
    "dropout": {"config": DROPOUT},
    "padded documents": {"config": DROPOUT, "kind": "documents"},
    "mixture": {"config": MIXTURE, "balance_rate": 0.5},
    "mixture, auxiliary loss": {"config": MIXTURE, "balance": "auxiliary", "balance_rate": 0.5},
    "mixture with dropout, accumulation, muon": {
        "config": replace(MIXTURE, dropout=0.2), "gradient_accumulation_steps": 3, "optimizer": "muon",
    },
}  # fmt: skip


def steps(subject, count: int = 4):
    """What each step reports, but its time."""
    return [replace(subject.train_step(), seconds=0.0) for _ in range(count)]


def both(**chosen):
    return [trainer(activation_checkpointing=on, **chosen) for on in (False, True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_training_is_the_same_to_the_last_bit(case, dtype):
    plain, checkpointed = both(**CASES[case])
    plain.dtype = checkpointed.dtype = dtype
    assert steps(checkpointed) == steps(plain)  # losses, norms of gradients, and the loads of experts
    for (name, mine), theirs in zip(checkpointed.model.named_parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(mine, theirs), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_tokens_that_pass_twice_are_counted_once(dtype):
    plain, checkpointed = both(config=MIXTURE)
    for subject in (plain, checkpointed):
        subject.dtype = dtype
        subject.model.train()
        batch = subject.batches.next_batch()
        subject.loss(batch).sum.backward()
    for mine, theirs in zip(checkpointed.balancer.layers, plain.balancer.layers, strict=True):
        assert int(mine.load.sum()) == batch.inputs.numel() * mine.experts_per_token
        assert torch.equal(mine.load, theirs.load)
        assert torch.equal(mine.input_sum, theirs.input_sum)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore:The .grad attribute")  # the compiler's own
@pytest.mark.skipif(not has_compiler(torch.device("cpu")), reason="no C++ compiler")
@pytest.mark.parametrize("config", [DROPOUT, MIXTURE], ids=["dropout", "mixture"])
def test_compiled_blocks_are_run_again_compiled(config):
    plain, checkpointed = both(config=config)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    plain.compile()
    expected = steps(plain)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    checkpointed.compile()
    assert steps(checkpointed) == expected
    assert graphs > 0
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2 * graphs  # not once more for the second time


def held_bytes(subject) -> int:
    """What a forward pass leaves in memory for the backward pass."""
    batch = subject.batches.next_batch()
    subject.model.train()
    subject.loss(batch).sum.backward()  # what is made once
    subject.model.zero_grad()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        loss = subject.loss(batch).sum
    loss.backward()
    return sum(event.self_cpu_memory_usage for event in record.key_averages())


@pytest.mark.parametrize("config", [LLAMA, DROPOUT, MIXTURE], ids=["llama", "dropout", "mixture"])
def test_a_block_more_costs_its_input_and_nothing_else(config):
    def of_two_blocks(*, on: bool) -> int:
        few, many = (
            held_bytes(trainer(replace(config, n_layers=n), activation_checkpointing=on, batch_size=4)) for n in (2, 4)
        )
        return many - few

    one_input = 4 * 8 * 16 * 4  # rows, tokens, dim, bytes
    assert of_two_blocks(on=False) > 10 * one_input
    assert of_two_blocks(on=True) < 2 * one_input + 256


def test_looking_and_speaking_are_left_alone():
    plain, checkpointed = both(config=DROPOUT)
    batch = plain.batches.next_batch()
    assert checkpointed.evaluate([batch]) == plain.evaluate([batch])
    assert checkpointed.model.state_dict().keys() == plain.model.state_dict().keys()
