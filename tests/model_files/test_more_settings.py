"""Settings of families further from Llama: one that would compute something else is refused, by its name."""

from __future__ import annotations

import pytest

from luthier.architectures import registry
from luthier.errors import LuthierError, Remark
from luthier.model_files import hugging_face

FAMILIES = ("gemma2", "gemma3", "phi3", "gptneox", "stablelm", "gptj", "gpt-oss", "deepseek", "nanochat")


def values_of(family: str) -> dict:
    config = registry.preset(f"{family}-nano")
    return hugging_face.format_spec(config).settings.write(config)


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("gemma2", {"use_bidirectional_attention": True}, "'use_bidirectional_attention': True is not supported"),
        ("gemma2", {"attention_bias": True}, "'attention_bias': True is not supported"),
        ("phi3", {"lm_head_bias": True}, "'lm_head_bias': True is not supported"),
        ("phi3", {"partial_rotary_factor": 1.5, "rope_parameters": None}, "1.5 rotates 48 of 32 dimensions"),
        ("phi3", {"partial_rotary_factor": 0.1, "rope_parameters": None}, "0.1 rotates 3 of 32 dimensions"),
        ("gptneox", {"hidden_act": "relu"}, "'hidden_act': 'relu' is not supported"),
        ("stablelm", {"hidden_act": "gelu"}, "'hidden_act': 'gelu' is not supported"),
        ("gptj", {"rotary_dim": None}, "'rotary_dim' null is not supported"),
        ("gpt-oss", {"attention_bias": False}, "'attention_bias': False is not supported"),
        ("gpt-oss", {"swiglu_limit": 0}, "'swiglu_limit' must be above 0"),
        ("deepseek", {"rope_interleave": False}, "'rope_interleave': False is not supported"),
        ("deepseek", {"topk_method": "greedy"}, "'topk_method': 'greedy' is not supported, only 'noaux_tc'"),
        ("deepseek", {"moe_layer_freq": 2}, "'moe_layer_freq': 2 is not supported"),
        ("deepseek", {"num_key_value_heads": 2}, "'num_key_value_heads': 2 is not supported"),
        ("deepseek", {"model_type": "deepseek_v2"}, "'scoring_func': 'sigmoid' is not supported, only 'softmax'"),
        ("nanochat", {"hidden_act": "gelu"}, "'hidden_act': 'gelu' is not supported"),
        ("gemma3", {"architectures": ["PhiForCausalLM"], "model_type": "phi"}, "no architecture 'phi'"),
    ],
)
def test_another_computation_is_refused(family, change, message):
    with pytest.raises(LuthierError, match=message):
        hugging_face.read_config({**values_of(family), **change})


@pytest.mark.parametrize("family", FAMILIES)
def test_settings_that_are_not_known_are_remarked_on(family):
    with pytest.warns(Remark, match="'residual_gate' is not understood here and is not used"):
        hugging_face.read_config({**values_of(family), "residual_gate": 3})


def test_a_cap_of_null_is_none_and_a_missing_one_the_default():
    values = values_of("gemma2")
    assert hugging_face.read_config({**values, "attn_logit_softcapping": None}).attention_softcap is None
    del values["attn_logit_softcapping"]
    assert hugging_face.read_config(values).attention_softcap == 50.0
