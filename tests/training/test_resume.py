"""Stopping and going on equals never stopping, bit for bit."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_training import CAPPED, DROPOUT, LATENT, LLAMA, MIXTURE, SINKS, trainer

from luthier.errors import LuthierError
from luthier.training.checkpoint import RECORD, TENSORS, read_state, write_state
from luthier.training.machine import has_compiler

STEPS = 12
CASES = {
    "adamw": {},
    "muon": {"optimizer": "muon"},
    "dropout": {"config": DROPOUT},
    "gradient_accumulation_steps": {"config": DROPOUT, "gradient_accumulation_steps": 3},
    "mixture": {"config": MIXTURE, "balance_rate": 0.05},
    "latent attention, bias on the choice of experts": {"config": LATENT, "balance_rate": 0.05},
    "sinks, experts with biases, muon": {"config": SINKS, "balance_rate": 0.05, "optimizer": "muon"},
    "capped logits, four norms": {"config": CAPPED, "activation_checkpointing": True},
    "activation checkpointing": {"config": DROPOUT, "gradient_accumulation_steps": 2, "activation_checkpointing": True},
    "sliding windows": {"kind": "sliding"},
    "documents": {"kind": "documents", "config": DROPOUT},
    "muon, mixture, documents, accumulation": {
        "config": MIXTURE, "kind": "documents", "optimizer": "muon", "gradient_accumulation_steps": 2,
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore:The .grad attribute")  # the compiler's own
@pytest.mark.skipif(not has_compiler(torch.device("cpu")), reason="no C++ compiler")
def test_going_on_equals_never_stopping_when_compiled(tmp_path):
    going_on_equals_never_stopping(tmp_path, {"config": DROPOUT}, compiled=True)


@pytest.mark.parametrize("case", CASES)
def test_going_on_equals_never_stopping(tmp_path, case):
    going_on_equals_never_stopping(tmp_path, CASES[case], compiled=False)


def going_on_equals_never_stopping(tmp_path, case, *, compiled):
    chosen = {"steps": STEPS, **case}

    def fresh():
        made = trainer(**chosen)
        if compiled:
            made.compile()
        return made

    straight = fresh()
    expected = [straight.train_step().loss for _ in range(STEPS)]
    assert straight.batches.epoch > 1.5  # the order of the second epoch is restored too

    stopped = fresh()
    losses = [stopped.train_step().loss for _ in range(5)]
    write_state(tmp_path, *stopped.state())
    resumed = fresh()
    resumed.model.load_state_dict(stopped.model.state_dict())
    resumed.restore(*read_state(tmp_path))
    assert (resumed.step, resumed.tokens) == (stopped.step, stopped.tokens)
    losses += [resumed.train_step().loss for _ in range(STEPS - 5)]

    assert losses == expected
    for mine, theirs in zip(resumed.model.parameters(), straight.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    (mine, record), (theirs, expected_record) = resumed.state(), straight.state()
    assert record == expected_record
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert torch.equal(resumed.batches.next_batch().inputs, straight.batches.next_batch().inputs)


@pytest.fixture
def saved(tmp_path):
    subject = trainer(LLAMA)
    subject.train_step()
    (tmp_path / "model.safetensors").write_bytes(b"the weights")
    write_state(tmp_path, *subject.state())
    return tmp_path


def test_what_is_written_is_no_pickle(saved):
    assert {path.suffix for path in saved.iterdir()} == {".json", ".safetensors"}
    assert json.loads((saved / RECORD).read_text())["step"] == 1


@pytest.mark.parametrize("name", [TENSORS, "model.safetensors"])
def test_one_flipped_bit_is_found(saved, name):
    content = bytearray((saved / name).read_bytes())
    content[-3] ^= 1
    (saved / name).write_bytes(content)
    with pytest.raises(LuthierError, match=f"cannot be resumed: {name} is damaged"):
        read_state(saved)


@pytest.mark.parametrize("name", [TENSORS, RECORD, "model.safetensors"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(LuthierError, match=f"cannot be resumed: {name} is missing"):
        read_state(saved)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"sha256": 3}'])
def test_a_damaged_record_is_named(saved, content):
    (saved / RECORD).write_text(content)
    with pytest.raises(LuthierError, match=f"cannot be resumed: {RECORD} is damaged"):
        read_state(saved)
