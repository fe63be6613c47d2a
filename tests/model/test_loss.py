"""The loss on a tied output matrix, and its kernel compiled."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from luthier.model import loss as loss_module
from luthier.model.loss import IGNORE_INDEX, cross_entropy_sum, loss_and_gradient

N, C, V = 12, 8, 19


def test_a_tied_matrix_gets_both_its_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "LOGITS_PER_CHUNK", 5 * V)
    generator = torch.Generator().manual_seed(1)
    tokens, targets = torch.randint(V, (2, N), generator=generator)
    targets[3] = IGNORE_INDEX
    gradients = []
    for function in (cross_entropy_sum, lambda h, w, t: F.cross_entropy(h @ w.T, t, reduction="sum")):
        weight = torch.randn(V, C, generator=torch.Generator().manual_seed(2)).requires_grad_()
        hidden = F.embedding(tokens, weight).sin()
        gradients.append(torch.autograd.grad(function(hidden, weight, targets), weight)[0])
    assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of the compiler's own imports
def test_the_compiled_kernel_gives_what_the_plain_one_gives() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(N, V, generator=generator)
    targets = torch.randint(V, (N,), generator=generator)
    targets[::4] = IGNORE_INDEX
    torch.compiler.reset()
    compiled = torch.compile(loss_and_gradient, dynamic=False)
    for found, right in zip(compiled(logits, targets), loss_and_gradient(logits, targets), strict=True):
        assert_close(found, right, atol=1e-5, rtol=1e-5)
