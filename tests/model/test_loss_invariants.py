"""The loss that never holds all logits, beside the plain one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from luthier.model import loss as loss_module
from luthier.model.loss import IGNORE_INDEX, cross_entropy_sum, loss_and_gradient

B, T, C, V = 3, 7, 8, 19


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def data() -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, the output matrix, and targets of which some carry no loss."""
    targets = torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(3))
    targets[0, 2:5] = targets[2, 6] = IGNORE_INDEX
    return draw(1, B, T, C).requires_grad_(), draw(2, V, C).requires_grad_(), targets


def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    logits = (hidden @ weight.T).flatten(0, -2).float()
    return F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")


@pytest.fixture(params=[2**26, 5 * V, V, 1])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows at once, five, and one."""
    monkeypatch.setattr(loss_module, "LOGITS_PER_CHUNK", request.param)


def run(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    hidden, weight, targets = data()
    loss = function(hidden, weight, targets)
    return loss.detach(), *torch.autograd.grad(0.3 * loss, (hidden, weight))


@pytest.mark.usefixtures("pieces")
def test_loss_and_gradients_are_those_of_the_plain_loss() -> None:
    for found, right in zip(run(cross_entropy_sum), run(plain), strict=True):
        assert right.abs().max() > 0.1
        assert_close(found, right, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("pieces")
def test_without_gradients_the_loss_is_the_same() -> None:
    hidden, weight, targets = data()
    with torch.no_grad():
        assert_close(cross_entropy_sum(hidden, weight, targets), plain(hidden, weight, targets))


@pytest.mark.usefixtures("pieces")
def test_in_autocast_it_is_near_and_gradients_keep_the_types_of_the_weights() -> None:
    def mixed(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return cross_entropy_sum(hidden, weight, targets)

    for found, right in zip(run(mixed), run(plain), strict=True):
        assert found.dtype == torch.float32
        assert (found - right).norm() / right.norm() < 0.02


def test_nothing_but_padding_has_no_loss_and_no_gradient() -> None:
    hidden, weight, targets = data()
    loss = cross_entropy_sum(hidden, weight, torch.full_like(targets, IGNORE_INDEX))
    assert loss == 0
    for gradient in torch.autograd.grad(loss, (hidden, weight)):
        assert not gradient.any()


def test_large_logits_do_not_overflow() -> None:
    logits = torch.tensor([[1e4, 0.0, -1e4], [0.0, 1e4, 1e4]])
    loss, gradient = loss_and_gradient(logits, torch.tensor([1, 1]))
    assert_close(loss, torch.tensor(1e4 + torch.log(torch.tensor(2.0)).item()))
    expected = torch.tensor([[1.0, -1.0, 0.0], [0.0, -0.5, 0.5]])
    assert_close(gradient, expected, atol=1e-3, rtol=0)  # what float32 keeps of 10000
