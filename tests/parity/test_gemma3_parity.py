"""Gemma 3 in the other forms that its files have."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from more_models import GEMMA, MORE, gemma3
from peers import tokens
from random_weights import randomize
from test_folder_parity import open_in_transformers
from torch.testing import assert_close

import luthier
from luthier.errors import LuthierError
from luthier.model_files import hugging_face

CLOSE = {"atol": 1e-4, "rtol": 0.0}


@torch.no_grad()
def test_the_text_part_of_a_multimodal_model_opens(tmp_path):
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.Gemma3Config(
        text_config=GEMMA, vision_config={**vision, "image_size": 28, "patch_size": 14}, mm_tokens_per_image=4
    )
    peer = randomize(transformers.Gemma3ForConditionalGeneration(config))
    peer.save_pretrained(tmp_path)
    lm = luthier.load(tmp_path)
    assert_close(lm.model(tokens()), peer(tokens()).logits, **CLOSE)
    lm.save(tmp_path / "text")
    assert_close(open_in_transformers(tmp_path / "text")(tokens()).logits, lm.model(tokens()), **CLOSE)


@pytest.mark.parametrize("kind", ["gemma 3", "gemma 3, linear, untied, capped"])
def test_settings_of_transformers_4_mean_the_same(kind):
    new = MORE[kind]().config.to_dict()
    old = {name: value for name, value in new.items() if name not in ("rope_parameters", "_sliding_window_pattern")}
    ropes = new["rope_parameters"]
    wide, local = ropes["full_attention"], ropes["sliding_attention"]
    old |= {"rope_theta": wide["rope_theta"], "rope_local_base_freq": local["rope_theta"]}
    old["rope_scaling"] = None if wide["rope_type"] == "default" else {"rope_type": "linear", "factor": wide["factor"]}
    assert hugging_face.read_config(old) == hugging_face.read_config(new)


def test_a_pattern_stands_for_the_types_of_layers():
    values = {**gemma3(num_hidden_layers=7).config.to_dict(), "layer_types": None, "sliding_window_pattern": 3}
    config = hugging_face.read_config(json.loads(json.dumps(values)))
    assert (config.global_every, config.global_layers) == (3, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_bidirectional_attention": True}, "'use_bidirectional_attention': True is not supported"),
        ({"attn_logit_softcapping": 50.0}, "'attn_logit_softcapping': 50.0 is not supported"),
        ({"layer_types": ["full_attention"]}, "'layer_types' names 1 layers of 3"),
        ({"layer_types": ["chunked"] * 3}, "'layer_types' must be a list of"),
        ({"hidden_activation": "gelu"}, "'hidden_activation': 'gelu' is not supported"),
    ],
)
def test_what_would_compute_something_else_is_refused(change, message):
    with pytest.raises(LuthierError, match=message):
        hugging_face.read_config({**gemma3().config.to_dict(), **change})
