"""With the cache, and past the length that a model was trained on: the same logits as transformers with its cache."""

from __future__ import annotations

import pytest
import torch
from llama_kin import KIN
from more_models import MORE
from peers import SCALINGS, llama, scaled, tokens, twin
from torch.testing import assert_close
from transformers import DynamicCache

FIRST, LENGTH = 12, 28  # tokens of the prompt, and in all; the models are trained on 16
MAKERS = {
    **{name: lambda rope=rope: scaled(rope) for name, rope in SCALINGS.items()},
    "biases": lambda: llama(attention_bias=True, mlp_bias=True),
    **KIN,
    **MORE,
}


@pytest.mark.parametrize("name", MAKERS)
@torch.no_grad()
def test_token_by_token_the_logits_are_those_of_transformers(name):
    peer = MAKERS[name]()
    ours, text = twin(peer), tokens(length=LENGTH)
    cache, theirs = ours.make_cache(LENGTH), DynamicCache(config=peer.config)
    for begin, end in [(0, FIRST), *((place, place + 1) for place in range(FIRST, LENGTH))]:
        logits = peer(text[:, begin:end], past_key_values=theirs, use_cache=True).logits
        assert logits.std() > 0.5
        assert_close(ours(text[:, begin:end], cache), logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", [name for name in SCALINGS if not name.startswith(("dynamic", "longrope"))])
@torch.no_grad()
def test_the_law_of_the_cache_holds_past_the_length_trained_on(name):
    ours, text = twin(MAKERS[name]()), tokens(length=LENGTH)
    cache = ours.make_cache(LENGTH)
    parts = [ours(text[:, begin:end], cache) for begin, end in [(0, 7), (7, 8), (8, 20), (20, LENGTH)]]
    assert_close(torch.cat(parts, 1), ours(text), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["dynamic", "longrope"])
@torch.no_grad()
def test_each_row_of_a_batch_has_its_own_length(name):
    """Where transformers takes the longest: a text must be the same alone and beside a longer one."""
    ours = twin(MAKERS[name]())
    text = tokens(rows=1, length=LENGTH)
    short = text[:, :10]
    padded = torch.cat((torch.cat((short.new_zeros(1, LENGTH - 10), short), 1), text))
    valid = torch.ones(2, LENGTH, dtype=torch.bool)
    valid[0, : LENGTH - 10] = False
    both = ours(padded, valid=valid)
    assert_close(both[0, LENGTH - 10 :], ours(short)[0], atol=1e-4, rtol=0)
    assert_close(both[1], ours(text)[0], atol=1e-4, rtol=0)
