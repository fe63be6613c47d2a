"""Whole models against transformers: the same weights give the same logits."""

from __future__ import annotations

import pytest
import torch
from llama_kin import KIN
from more_models import MORE
from peers import MODELS, gpt2, llama, llama4, tokens, twin
from torch.testing import assert_close

CLOSE = {"atol": 1e-4, "rtol": 0.0}
# transformers takes the length of the longest row for all: see test_cache_parity
PADDED = [make for name, make in MORE.items() if name != "phi 4 mini"]


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_logits_are_those_of_transformers(kind):
    peer = MODELS[kind]()
    logits = peer(tokens()).logits
    assert logits.std() > 0.5  # else 1e-4 would prove nothing
    assert_close(twin(peer)(tokens()), logits, **CLOSE)


@pytest.mark.parametrize("make", [gpt2, llama, llama4, *KIN.values(), *PADDED])
@torch.no_grad()
def test_padding_on_the_right_is_masked_as_in_transformers(make):
    peer = make()
    valid = torch.ones(2, 20, dtype=torch.bool)
    valid[1, 13:] = False
    ours = twin(peer)(tokens(), valid=valid)
    theirs = peer(tokens(), attention_mask=valid.long()).logits
    assert_close(ours[valid], theirs[valid], **CLOSE)


@pytest.mark.parametrize("make", [gpt2, llama, lambda: llama4(attn_temperature_tuning=False), *KIN.values(), *PADDED])
@torch.no_grad()
def test_padding_on_the_left_is_masked_as_in_transformers(make):
    # with temperature, transformers counts Llama 4's positions from the padding on: a fault that we do not share
    peer = make()
    valid = torch.ones(2, 20, dtype=torch.bool)
    valid[1, :7] = False
    positions = (valid.long().cumsum(1) - 1).clamp(min=0)
    ours = twin(peer)(tokens(), valid=valid)
    theirs = peer(tokens(), attention_mask=valid.long(), position_ids=positions).logits
    assert_close(ours[valid], theirs[valid], **CLOSE)


@torch.no_grad()
def test_every_setting_of_llama4_shows_in_the_logits():
    """Else the parity above would hold for a model that ignores the setting."""
    plain = llama4()(tokens()).logits
    changes = [
        {"attention_chunk_size": 64},
        {"use_qk_norm": False},
        {"attn_temperature_tuning": False},
        {"floor_scale": 5},
        {"attn_scale": 0.2},
        {"num_experts_per_tok": 2},
        {"no_rope_layers": [1, 1, 1, 1]},
        {"rms_norm_eps": 1e-2},
    ]
    for change in changes:
        assert not torch.allclose(llama4(**change)(tokens()).logits, plain, atol=1e-2), change
