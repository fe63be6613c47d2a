"""What changes how a model is computed must not change what it says: bfloat16, autocast, compilation."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, fx
from torch.testing import assert_close

from luthier.architectures import llama4
from luthier.architectures.registry import Config, build, preset
from luthier.model.dropout import reseed
from luthier.model.mask import Chunked, causal
from luthier.model.transformer import Transformer

# torch's own tracing looks at it, and hides the warning, which cannot be hidden when warnings are errors
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")

NANO = {
    name: replace(preset(f"{name}-nano", vocab_size=61), dim=64, **extra)
    for name, extra in (
        ("gpt2", {}),
        ("llama", {"hidden_dim": 96}),
        ("llama4", {"hidden_dim": 32, "attention_chunk": 8}),
    )
}


def random_tokens(seed: int, *shape: int) -> Tensor:
    return torch.randint(0, 61, shape, generator=torch.Generator().manual_seed(seed))


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual.float() - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", NANO)
def test_bfloat16_says_nearly_what_float32_says(name: str) -> None:
    """One rounding to 8 bits is off by 0.2 percent on average: many of them, by a few percent."""
    model, tokens = build(NANO[name], seed=0).eval().requires_grad_(False), random_tokens(1, 3, 40)
    exact = model(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(tokens)
    low = copy.deepcopy(model).bfloat16()
    whole = low(tokens)
    assert mixed.dtype == whole.dtype == torch.bfloat16
    assert relative(mixed, exact) < 0.02
    assert relative(whole, exact) < 0.02
    cache = low.make_cache(40)
    pieces = torch.cat([low(piece, cache) for piece in tokens.split([30, *[1] * 10], dim=1)], dim=1)
    assert cache.layers[0].buffers is not None
    assert cache.layers[0].buffers[0].dtype == torch.bfloat16
    assert relative(pieces, exact) < 0.02


@pytest.mark.parametrize("name", NANO)
def test_a_training_step_in_autocast_gives_finite_float32_gradients(name: str) -> None:
    model, tokens = build(replace(NANO[name], dropout=0.1), seed=0).train(), random_tokens(1, 3, 40)
    with torch.autocast("cpu", torch.bfloat16):
        loss = torch.nn.functional.cross_entropy(model(tokens).flatten(0, 1).float(), tokens.flatten())
    loss.backward()
    for parameter_name, weight in model.named_parameters():
        assert weight.grad is not None, parameter_name
        assert weight.grad.dtype == torch.float32
        assert weight.grad.isfinite().all(), parameter_name


@pytest.fixture
def graphs() -> Iterator[list[fx.GraphModule]]:
    torch.compiler.reset()
    yield []
    torch.compiler.reset()


def compile_blocks(model: Transformer, graphs: list[fx.GraphModule]) -> None:
    """Each by itself, as training does; a graph that is made shows in `graphs`."""

    def backend(graph: fx.GraphModule, example: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    model.compile_blocks(backend=backend)


def train(model: Transformer, config: Config, steps: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    outputs = []
    for step in range(steps):
        reseed(model, generator)
        outputs.append(model(random_tokens(step, 2, config.context_length)))
        outputs[-1].sum().backward()
    return outputs


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_one_compiled_block_serves_all_blocks_and_all_steps(name: str, graphs: list[fx.GraphModule]) -> None:
    config = replace(NANO[name], dropout=0.1)
    model = build(config).train()
    expected = train(model, config, 2)
    compile_blocks(model, graphs)
    for actual, right in zip(train(model, config, 2), expected, strict=True):
        assert_close(actual, right, atol=1e-5, rtol=1e-4)
    assert len(graphs) == 1


def test_compiled_blocks_with_experts_leave_their_graph_only_for_the_experts(graphs: list[fx.GraphModule]) -> None:
    """Before the experts and after, for a local and for a global layer; and never more, whatever the loads are."""
    config = replace(NANO["llama4"], n_layers=8, n_experts=8, dropout=0.1)
    assert isinstance(config, llama4.Config)
    model = build(config).train()
    assert {block.attention.mask for block in model.layers} == {Chunked(8), causal}
    expected = train(model, config, 3)
    compile_blocks(model, graphs)
    actual = train(model, config, 1)
    made = len(graphs)
    assert made <= 5
    actual += train(model, config, 3)[1:]
    assert len(graphs) == made
    for got, right in zip(actual, expected, strict=True):
        assert_close(got, right, atol=1e-5, rtol=1e-4)


def test_a_compiled_block_reads_token_by_token_with_no_graph_for_each_length(graphs: list[fx.GraphModule]) -> None:
    """One for many tokens at once, one for a single token, and perhaps one until the length is seen to vary."""
    model, tokens = build(NANO["llama"]).eval().requires_grad_(False), random_tokens(1, 2, 24)
    expected = model(tokens)
    compile_blocks(model, graphs)
    cache = model.make_cache(24)
    logits = torch.cat([model(piece, cache) for piece in tokens.split([9, *[1] * 15], dim=1)], dim=1)
    assert_close(logits, expected, atol=1e-5, rtol=1e-4)
    assert len(graphs) <= 3


def test_a_model_is_made_and_read_without_loading_the_compiler() -> None:
    """It takes a second to import: most of what the command line does needs none of it."""
    program = """
import sys, torch
from luthier.architectures.registry import build
for name in ("gpt2-nano", "llama-nano", "llama4-nano"):
    with torch.inference_mode():
        build(name).eval()(torch.zeros(1, 4, dtype=torch.long))
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=100)
