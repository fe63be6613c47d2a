"""What would not fit into memory is refused with a number before any of it is taken."""

from __future__ import annotations

import pytest
import torch

from luthier import memory
from luthier.architectures import llama, registry
from luthier.errors import LuthierError, UsageError
from luthier.generation.sampling import uniforms
from luthier.generation.settings import GenerationSettings
from luthier.model.seeds import seeded

CPU = torch.device("cpu")


@pytest.mark.parametrize(("name", "most"), [("beams", "1,000"), ("samples", "10,000")])
def test_a_million_texts_at_once_are_a_wrong_setting(name, most):
    with pytest.raises(UsageError, match=f"{name} is 1000000: it must be between 1 and {most}"):
        GenerationSettings(**{name: 1_000_000})


def test_texts_that_do_not_fit_are_refused_with_both_sizes(monkeypatch):
    from luthier.generation import generate

    monkeypatch.setattr(memory, "free_memory", lambda device: 10**6)
    model = registry.build(llama.Config(61, 32, 32, 48, n_layers=2, n_heads=4, n_kv_heads=2))

    class Row:
        prompt, room = (1, 2, 3), 20

    generate.check_memory(model, [Row()], GenerationSettings())
    with pytest.raises(LuthierError, match=r"1,000 texts of 23 tokens at once need about 0\.0 GB.*take fewer beams"):
        generate.check_memory(model, [Row()], GenerationSettings(beams=1000))


def test_a_model_of_ten_thousand_layers_is_a_wrong_setting():
    config = llama.Config(61, 32, 32, 48, n_layers=10_000, n_heads=4, n_kv_heads=2)
    with pytest.raises(UsageError, match="n_layers 10,000 must be at most 4,096"):
        registry.build(config)


def test_a_model_that_does_not_fit_is_refused_before_it_is_made(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 10**9)
    with pytest.raises(LuthierError, match=r"6,738,415,616 parameters takes 27\.0 GB of memory, and 1\.0 GB are free"):
        registry.build("llama2-7b")


def test_free_memory_is_a_plausible_number():
    left = memory.free_memory(CPU)
    assert left is not None
    assert 10**6 < left < 2**60


@pytest.mark.parametrize("seed", [0, 5, 2**31, 2**40 + 1])
def test_seeds_that_differ_above_32_bits_are_different_seeds(seed):
    rows = [uniforms(seed + high * 2**32, 1, 8) for high in range(4)]
    for i in range(4):
        for j in range(i):
            assert not torch.equal(rows[i], rows[j])


def test_seeds_of_32_bits_are_those_of_pytorch():
    ours, theirs = seeded(2**32 - 1), torch.Generator().manual_seed(2**32 - 1)
    assert torch.equal(torch.rand(5, generator=ours), torch.rand(5, generator=theirs))
