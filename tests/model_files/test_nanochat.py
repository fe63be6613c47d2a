"""nanochat's own checkpoints: the model that transformers computes with the same weights."""

from __future__ import annotations

import json

import pytest
import torch
from more_models import nanochat
from random_weights import VOCAB
from torch.testing import assert_close

import luthier
from luthier.errors import LuthierError, Remark

NAMES = {
    "model.embed_tokens": "transformer.wte",
    "model.layers": "transformer.h",
    "self_attn.q_proj": "attn.c_q",
    "self_attn.k_proj": "attn.c_k",
    "self_attn.v_proj": "attn.c_v",
    "self_attn.o_proj": "attn.c_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def save(folder, step: int, **more):
    """A checkpoint of random weights, as a compiled model has it. Returns the peer of the same weights."""
    peer = nanochat(intermediate_size=128)
    weights = {}
    for name, weight in peer.state_dict().items():
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        weights["_orig_mod." + name] = weight
    torch.save({**weights, **more}, folder / f"model_{step:06}.pt")
    config = {"sequence_len": 64, "vocab_size": VOCAB, "n_layer": 3, "n_head": 4, "n_kv_head": 2, "n_embd": 32}
    (folder / f"meta_{step:06}.json").write_text(json.dumps({"step": step, "model_config": config}))
    return peer


@torch.no_grad()
def test_the_last_checkpoint_of_a_folder_opens(tmp_path):
    peer = save(tmp_path, 120)
    (tmp_path / "model_000090.pt").write_bytes(b"an older one")
    (tmp_path / "meta_000090.json").write_text("{}")
    tokens = torch.arange(20)[None]
    for path in (tmp_path, tmp_path / "model_000120.pt"):
        with pytest.warns(Remark, match="the model opens without one"):
            lm = luthier.load(path)
        assert_close(lm.model(tokens), peer(tokens).logits, atol=1e-4, rtol=0)


def test_later_versions_are_refused_by_what_they_compute(tmp_path):
    save(tmp_path, 7, resid_lambdas=torch.ones(3))
    with pytest.raises(LuthierError, match="of a later nanochat, which computes with 'resid_lambdas' and more"):
        luthier.load(tmp_path)


def test_windows_are_refused(tmp_path):
    save(tmp_path, 7)
    meta = json.loads((tmp_path / "meta_000007.json").read_text())
    meta["model_config"]["window_pattern"] = "SSSL"
    (tmp_path / "meta_000007.json").write_text(json.dumps(meta))
    with pytest.raises(LuthierError, match="'window_pattern': 'SSSL' is not supported, only 'L'"):
        luthier.load(tmp_path)
