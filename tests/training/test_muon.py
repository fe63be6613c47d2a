"""Our Muon against torch's."""

from __future__ import annotations

import pytest
import torch

from luthier.training import muon

SHAPES = ((8, 8), (8, 24), (24, 8), (8, 8), (5, 7), (24, 8))


@pytest.mark.parametrize("stack", [1, 400, 2**20], ids=["one by one", "in part", "together"])
def test_stacked_matrices_take_the_same_steps_as_torchs_one_by_one(stack: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "STACK", stack)
    generator = torch.Generator().manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    theirs = [torch.nn.Parameter(weight.detach().clone()) for weight in ours]
    settings = {"lr": 0.01, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    optimizers = [muon.Muon(ours, **settings), torch.optim.Muon(theirs, **settings)]
    for step in range(4):
        for index, (mine, reference) in enumerate(zip(ours, theirs, strict=True)):
            mine.grad = torch.randn(mine.shape, generator=generator)
            if index == 3 and step == 1:
                mine.grad = None  # a weight that had no part in this step
            reference.grad = None if mine.grad is None else mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-6)
    assert optimizers[0].state_dict()["state"].keys() == optimizers[1].state_dict()["state"].keys()
