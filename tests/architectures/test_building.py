"""From a config to a model with fresh weights: drawn from one seed, as documented, and whole."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import luthier
from luthier.architectures.registry import FAMILIES, Config, build, build_on_meta, family_of, preset
from luthier.model.dropout import Dropout, reseed
from luthier.model.moe import MoE
from luthier.model.norm import RMSNorm
from luthier.model.transformer import Transformer

NANO = ("gpt2-nano", "llama-nano", "llama4-nano", "gptneox-nano")
STD = 0.02


@pytest.fixture(params=NANO)
def config(request: pytest.FixtureRequest) -> Config:
    return preset(request.param, n_layers=4)


def random_tokens(config: Config, seed: int, *shape: int) -> Tensor:
    return torch.randint(0, config.vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def is_into_stream(name: str) -> bool:
    """Whether a matrix writes into the residual stream."""
    return name.endswith(("attention.output.weight", "down", "down.weight"))


def test_one_seed_is_one_model(config: Config) -> None:
    first, again, other = build(config, seed=5), build(config, seed=5), build(config, seed=6)
    for name, weight in first.named_parameters():
        assert torch.equal(weight, again.get_parameter(name)), name
        if weight.ndim > 1:
            assert not torch.equal(weight, other.get_parameter(name)), name
    tokens = random_tokens(config, 1, 2, 16)
    assert torch.equal(first(tokens), again(tokens))


def test_a_name_and_its_config_are_one_model() -> None:
    by_name, by_config = luthier.build("llama-nano"), build(preset("llama-nano"), seed=0)
    assert all(map(torch.equal, by_name.parameters(), by_config.parameters()))


def test_the_global_generators_are_left_alone(config: Config) -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    model = build(replace(config, dropout=0.1)).train()
    tokens = random_tokens(config, 1, 2, 16)
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        reseed(model, generator)
        model(tokens).sum().backward()
    model.eval()(tokens)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])


def test_dropout_follows_the_seeds_and_nothing_else(config: Config) -> None:
    model, tokens = build(replace(config, dropout=0.2)).train(), random_tokens(config, 1, 2, 16)

    def run(seed: int) -> Tensor:
        reseed(model, torch.Generator().manual_seed(seed))
        out: Tensor = model(tokens)
        return out

    first = run(1)
    torch.rand(7)
    assert torch.equal(run(1), first)
    assert not torch.equal(run(2), first)
    model.eval()
    without = build(replace(config, dropout=0.0)).eval()
    assert torch.equal(run(1), without(tokens))


def test_dropout_acts_on_embeddings_attention_weights_and_both_branches_of_each_block(config: Config) -> None:
    model, tokens = build(replace(config, dropout=0.3)).train(), random_tokens(config, 1, 2, 16)
    layers = [module for module in model.modules() if isinstance(module, Dropout)]
    assert [layer.p for layer in layers] == [0.3] * (1 + 3 * config.n_layers)
    for layer in layers:
        layer.p = 0.0
    without = model(tokens)
    for layer in layers:  # each alone changes what the model says
        layer.p = 0.3
        assert (model(tokens) - without).abs().max() > 1e-4
        layer.p = 0.0
    assert torch.equal(model(tokens), without)


def test_the_first_loss_is_that_of_knowing_nothing(config: Config) -> None:
    model = build(config, seed=1).eval()
    tokens = random_tokens(config, 2, 8, 65)
    with torch.no_grad():
        logits = model(tokens[:, :-1])
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert_close(loss, torch.log(torch.tensor(float(config.vocab_size))), atol=0.15, rtol=0)


def test_weights_are_spread_as_documented(config: Config) -> None:
    model = build(config, seed=1)
    for name, weight in model.named_parameters():
        if name.endswith(".bias"):
            assert not weight.any(), name
        elif weight.ndim == 1:
            assert (weight == 1).all(), name
        else:
            std = STD * (2 * config.n_layers) ** -0.5 if is_into_stream(name) else STD
            std = 0.01 if name == "position_embedding.weight" else std
            error = 5 * std * (2 * weight.numel()) ** -0.5
            assert_close(weight.std().item(), std, atol=error, rtol=0, msg=name)
            assert abs(weight.mean().item()) < 5 * std * weight.numel() ** -0.5, name


@pytest.mark.parametrize("family", FAMILIES)
def test_no_weight_is_forgotten(family: str) -> None:
    """Memory that nothing was written to may hold anything, NaN too."""
    config = preset(f"{family}-nano", n_layers=4)
    model = build(config)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(float("nan") if tensor.is_floating_point() else 12345)
    family_of(config).initialize(model, config, torch.Generator().manual_seed(0))
    for name, weight in build(config, seed=0).named_parameters():
        assert torch.equal(model.get_parameter(name), weight), name
    assert not any(buffer.any() for buffer in model.buffers())


def test_weights_assigned_onto_meta_make_the_same_model(config: Config) -> None:
    config = replace(config, dropout=0.1)
    direct = build(config, seed=3)
    weights = {name: tensor.clone() for name, tensor in direct.state_dict().items()}
    assert set(weights) - {"output.weight"} == {name for name, _ in direct.named_parameters()} - {"output.weight"}
    assigned = build_on_meta(config)
    assigned.load_state_dict(weights, assign=True)
    assigned.tie()
    assert not any(tensor.is_meta for tensor in (*assigned.parameters(), *assigned.buffers()))
    assigned.to("cpu")
    tokens = random_tokens(config, 1, 2, 16)
    assert torch.equal(assigned.eval()(tokens), direct.eval()(tokens))
    for model in (assigned, direct):  # whole for training too: seeds, balances and loads
        reseed(model.train(), torch.Generator().manual_seed(1))
    assert torch.equal(assigned(tokens), direct(tokens))


def test_tied_matrices_are_one_and_train_as_one(config: Config) -> None:
    tied, parted = (build(replace(config, tie_embeddings=tie)) for tie in (True, False))
    assert tied.output.weight is tied.embedding.weight
    assert parted.output.weight is not parted.embedding.weight
    assert {name for name, _ in parted.named_parameters()} - {name for name, _ in tied.named_parameters()} == {
        "output.weight"
    }
    parted.load_state_dict(tied.state_dict())
    tokens = random_tokens(config, 1, 2, 8)
    for model in (tied, parted):
        model(tokens).logsumexp(-1).sum().backward()
    by_input, by_output = parted.embedding.weight.grad, parted.output.weight.grad
    assert by_input is not None
    assert by_output is not None
    assert by_input.abs().max() > 1e-3
    assert_close(tied.embedding.weight.grad, by_input + by_output)
    for model in (tied, parted):
        torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert torch.equal(tied.output.weight, tied.embedding.weight)
    assert not torch.equal(parted.output.weight, parted.embedding.weight)


def test_a_model_can_be_built_in_bfloat16(config: Config) -> None:
    model = build(config, dtype=torch.bfloat16).eval()
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    logits = model(random_tokens(config, 1, 2, 16))
    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()
    for moe in model.modules():
        if isinstance(moe, MoE):
            assert moe.load.dtype == torch.int64


@pytest.mark.parametrize("name", ["gpt2-1558m", "llama2-7b", "llama4-maverick"])
def test_on_meta_no_weight_has_memory(name: str) -> None:
    assert all(weight.is_meta for weight in build(name, device="meta").parameters())


def test_norms_take_their_eps_from_the_config(config: Config) -> None:
    model: Transformer = build_on_meta(replace(config, norm_eps=0.125))
    norms = [module for module in model.modules() if isinstance(module, RMSNorm | nn.LayerNorm)]
    assert len(norms) == 2 * config.n_layers + 1
    assert {norm.eps for norm in norms} == {0.125}
