"""The numbers that are read off a recording, beside the same computed in plain words."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from luthier.architectures import gpt2, llama, llama4
from luthier.architectures.registry import build
from luthier.inspect import lens, record
from luthier.inspect.profile import profile_modules

LLAMA4 = llama4.Config(
    61, 32, 16, 16, 24, n_layers=4, n_heads=4, n_kv_heads=2, head_dim=4, n_experts=4, moe_every=2, attention_chunk=8
)


@pytest.fixture(scope="module")
def model():
    model = build(llama.Config(61, 32, 32, 48, n_layers=2, n_heads=4, n_kv_heads=2), seed=0).eval()
    return model.requires_grad_(False)


def ids(length: int = 9) -> torch.Tensor:
    return torch.randint(61, (2, length), generator=torch.Generator().manual_seed(2))


def test_probability_rank_and_surprise_are_those_of_a_softmax_by_hand(model):
    logits = 20 * model(ids())
    found = lens.score_tokens(logits, ids())
    for row in range(2):
        for place in range(8):
            token = int(ids()[row, place + 1])
            shares = [math.exp(logit) for logit in logits[row, place].tolist()]
            share = shares[token] / sum(shares)
            assert float(found.probability[row, place]) == pytest.approx(share, rel=1e-4)
            assert float(found.surprise[row, place]) == pytest.approx(-math.log2(share), abs=1e-3)
            assert int(found.rank[row, place]) == 1 + sum(other > shares[token] for other in shares)
    assert found.rank.min() < 10 < found.rank.max()


def test_candidates_are_in_order_and_no_more_than_the_vocabulary():
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    found = lens.top_candidates(logits, 10)
    assert found.ids.tolist() == [[1, 2, 0]]
    assert_close(found.probabilities, logits.softmax(-1)[:, [1, 2, 0]])


@pytest.mark.parametrize("at_once", [1, 400, 2**25])
def test_the_lens_of_the_last_layer_is_the_model_itself_however_it_is_cut(model, at_once, monkeypatch):
    monkeypatch.setattr(lens, "LOGITS_PER_CHUNK", at_once)
    recording = record(model, ids())
    found = lens.logit_lens(model, recording, 5)
    assert found.candidates.ids.shape == (3, 2, 9, 5)
    last, own = lens.top_candidates(recording.logits, 5), lens.score_tokens(recording.logits, ids())
    assert torch.equal(found.candidates.ids[-1], last.ids)
    assert_close(found.candidates.probabilities[-1], last.probabilities)
    for ours, theirs in zip(found.scores, own, strict=True):
        assert_close(ours[-1], theirs)
    middle = model.output(model.norm(recording.layers[0].after_feed_forward))
    assert torch.equal(found.candidates.ids[1], lens.top_candidates(middle, 5).ids)
    assert_close(found.scores.surprise[1], lens.score_tokens(middle, ids()).surprise)


def test_norms_are_euclidean_lengths(model):
    recording = record(model, ids())
    found = lens.norms(recording)
    assert found.residual.shape == (3, 2, 9)
    assert found.attention.shape == found.feed_forward.shape == (2, 2, 9)
    assert_close(found.residual[1, 0, 3] ** 2, (recording.residual[1][0, 3] ** 2).sum())
    assert_close(found.feed_forward[1, 1, 4] ** 2, (recording.layers[1].feed_forward_added[1, 4] ** 2).sum())


def test_the_share_of_the_first_token_is_a_mean_over_the_later_ones(model):
    recording = record(model, ids())
    found = lens.first_token_share(recording)
    assert found.shape == (2, 2, 4)
    by_hand = sum(float(recording.layers[1].attention_weights[0, 3, place, 0]) for place in range(1, 9)) / 8
    assert float(found[1, 0, 3]) == pytest.approx(by_hand, abs=1e-6)
    assert lens.first_token_share(record(model, ids(1))).isnan().all()


@pytest.mark.parametrize(
    "config",
    [
        gpt2.Config(vocab_size=61, context_length=32, dim=32, n_layers=2, n_heads=4),
        llama.Config(61, 32, 32, 48, n_layers=2, n_heads=4, n_kv_heads=4, tie_embeddings=True),
        LLAMA4,
    ],
)
def test_parameters_by_part_add_up_and_times_fit_into_the_whole(config):
    model = build(config, seed=0)
    parts, whole = profile_modules(model, ids())
    assert sum(part.parameters for part in parts) == sum(weight.numel() for weight in model.parameters())
    assert all(part.seconds > 0 for part in parts)
    assert 0 < sum(part.seconds for part in parts) < 3 * whole  # medians of several passes on a busy machine
    layers = {part.layer for part in parts}
    assert layers == {None, *range(config.n_layers)}
    experts = [part for part in parts if part.name == "experts"]
    assert [part.layer for part in experts] == ([1, 3] if config is LLAMA4 else [])
    for part in experts:
        assert part.parameters - part.active == 3 * 3 * 16 * 16  # three idle experts of three 16 x 16 matrices
    assert model.training
