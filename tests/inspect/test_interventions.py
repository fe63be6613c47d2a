"""What is replaced or silenced inside a model acts, where and as long as it should."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from luthier.architectures import gpt2, llama
from luthier.architectures.registry import build
from luthier.errors import UsageError
from luthier.inspect import ablate, record, replace

PARTS = ["heads", "attention_added", "feed_forward_added", "after_feed_forward"]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request):
    if request.param == "gpt2":
        config = gpt2.Config(vocab_size=61, context_length=32, dim=32, n_layers=3, n_heads=4)
    else:
        config = llama.Config(61, 32, 32, 48, n_layers=3, n_heads=4, n_kv_heads=2)
    model = build(config, seed=0).eval().requires_grad_(False)
    for number, weight in enumerate(model.parameters()):
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
        weight.add_(noise * (0.2 if weight.ndim == 1 else weight.shape[-1] ** -0.5))
    return model


def ids(seed: int = 2) -> torch.Tensor:
    return torch.randint(61, (2, 10), generator=torch.Generator().manual_seed(seed))


def test_a_silenced_head_is_one_whose_columns_of_the_output_matrix_are_0(model):
    plain = model(ids())
    with ablate(model, {(1, 2), (1, 0), (2, 3)}):
        silenced = model(ids())
        found = record(model, ids())
    assert torch.equal(model(ids()), plain)
    assert not torch.allclose(silenced, plain, atol=1e-3)
    assert not found.layers[1].heads[:, :, [0, 2]].any()
    assert found.layers[1].heads[:, :, [1, 3]].all()
    kept = [model.layers[i].attention.output.weight.clone() for i in (1, 2)]
    model.layers[1].attention.output.weight[:, :8] = 0  # 4 heads of 8
    model.layers[1].attention.output.weight[:, 16:24] = 0
    model.layers[2].attention.output.weight[:, 24:] = 0
    try:
        assert_close(silenced, model(ids()))
    finally:
        for i, weight in zip((1, 2), kept, strict=True):
            model.layers[i].attention.output.weight.copy_(weight)


@pytest.mark.parametrize("part", PARTS)
def test_a_recorded_activation_put_into_another_text_is_what_flows_there(model, part):
    other = getattr(record(model, ids(5)).layers[1], part)
    with replace(model, 1, part, lambda x: other):
        found = record(model, ids())
    assert torch.equal(getattr(found.layers[1], part), other)
    plain = record(model, ids())
    assert torch.equal(found.residual[1], plain.residual[1])
    assert not torch.allclose(found.residual[2], plain.residual[2], atol=1e-3)
    if part == "after_feed_forward":  # nothing of this text is left
        assert torch.equal(found.logits, record(model, ids(5)).logits)
    with replace(model, 1, part, lambda x: x):
        assert torch.equal(record(model, ids()).logits, plain.logits)


def test_it_acts_on_new_tokens_with_a_cache(model):
    with ablate(model, {(0, 1)}):
        whole = model(ids())
        cache = model.make_cache(10)
        steps = [model(ids()[:, place : place + 1], cache) for place in range(10)]
    assert_close(torch.cat(steps, 1), whole, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_it_acts_on_a_compiled_model():
    model = build(llama.Config(61, 32, 32, 48, n_layers=3, n_heads=4, n_kv_heads=2), seed=0).eval()
    with ablate(model, {(0, 1)}):
        expected = model(ids())
    model.compile_blocks(backend="eager")
    plain = model(ids())
    with ablate(model, {(0, 1)}):
        assert_close(model(ids()), expected)
    assert not torch.allclose(plain, expected)


def test_what_is_not_there_is_one_line(model):
    def fails(line):
        return pytest.raises(UsageError, match=line)

    with fails("there is no layer 3: this model's layers are 0 to 2"), ablate(model, {(3, 0)}):
        pass
    with fails("layer 1 has no head 4: its heads are 0 to 3"), ablate(model, {(1, 4)}):
        pass
    with fails("no part 'mlp': the parts that can be replaced are heads,"), replace(model, 0, "mlp", torch.relu):
        pass
    shapes = r"heads of layer 0 is \(2, 10, 4, 8\) and its replacement \(8,\): keep the"
    with fails(shapes), replace(model, 0, "heads", lambda x: x[0, 0, 0]):
        model(ids())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
