"""config.json from outside: both forms mean the same, and what cannot be honored is refused by name."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.architectures import gpt2, llama, llama4, registry
from luthier.errors import LuthierError, Remark
from luthier.model.rope_scaling import RopeScaling
from luthier.model_files import hugging_face

GPT2 = {"model_type": "gpt2", "vocab_size": 10, "n_positions": 8, "n_embd": 8, "n_layer": 2, "n_head": 2}
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 10,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "rope_theta": 500.0,
}
LLAMA4 = {"architectures": ["Llama4ForCausalLM"], "model_type": "llama4_text"}
STRETCH = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def test_missing_settings_mean_what_they_mean_in_transformers():
    assert hugging_face.read_config(GPT2) == gpt2.Config(10, 8, 8, 2, 2)
    assert hugging_face.read_config({**LLAMA, "rope_theta": None, "num_key_value_heads": None}) == llama.Config(
        10, 2048, 8, 12, 2, 2, 2, norm_eps=1e-6
    )
    scout = hugging_face.read_config(LLAMA4)
    assert scout == llama4.Config(context_length=131_072)


@pytest.mark.parametrize(
    "form",
    [
        {"rope_theta": 500.0, "rope_scaling": STRETCH},
        {"rope_theta": 500, "rope_scaling": {**STRETCH, "type": STRETCH["rope_type"]}},
        {"rope_theta": None, "rope_scaling": None, "rope_parameters": {**STRETCH, "rope_theta": 500.0}},
        {"rope_theta": 1.0, "rope_parameters": {**STRETCH, "rope_theta": 500.0}, "torch_dtype": "float16"},
        {"rope_scaling": STRETCH, "rope_parameters": {"rope_type": "default"}},
        {"rope_scaling": {**STRETCH, "original_max_position_embeddings": None}, "max_position_embeddings": 64},
    ],
)
def test_rotary_settings_have_two_forms(form):
    config = hugging_face.read_config({**LLAMA, **form})
    assert (config.rope_theta, config.rope_scaling) == (500.0, RopeScaling(8.0, 1.0, 4.0, 64))


def test_llama4_layers_are_read_from_lists_and_from_steps():
    def layers(**settings):
        config = hugging_face.read_config({**LLAMA4, "num_hidden_layers": 6, **settings})
        kinds = "".join("gl"[not config.is_global(i)] for i in range(6))
        return kinds, [i for i in range(6) if config.is_moe(i)]

    assert layers() == ("lllgll", [0, 1, 2, 3, 4, 5])
    assert layers(no_rope_layers=[]) == ("lllgll", [0, 1, 2, 3, 4, 5])
    assert layers(no_rope_layer_interval=2, interleave_moe_layer_step=3) == ("lglglg", [2, 5])
    assert layers(no_rope_layers=[0, 1, 1, 1, 1, 0, 1, 1], moe_layers=[4, 1]) == ("gllllg", [1, 4])
    assert layers(moe_layers=[]) == ("lllgll", [])


def test_settings_beside_the_text_part_are_not_read():
    config = hugging_face.read_config(
        {"architectures": ["Llama4ForConditionalGeneration"], "text_config": {"hidden_size": 80}, "hidden_size": 7}
    )
    assert config == llama4.Config(context_length=131_072, dim=80, head_dim=128)


def test_auto_map_is_not_looked_at():
    assert hugging_face.read_config({**GPT2, "auto_map": {"AutoModelForCausalLM": "evil.Model"}})


@pytest.mark.parametrize("classes", [["BloomForCausalLM"], ["__import__"], [["LlamaForCausalLM"]], [7], [None]])
def test_an_unknown_architecture_gets_the_list_of_known_ones(classes):
    with pytest.raises(
        LuthierError, match=r"no architecture .* here; there are gpt2, llama, .*: take a model of one of these"
    ):
        hugging_face.read_config({**LLAMA, "architectures": classes})


@pytest.mark.parametrize("values", [{}, {"architectures": None}, {"architectures": []}, {"model_type": 3}])
def test_a_config_without_architecture_is_refused(values):
    with pytest.raises(LuthierError, match="no architecture"):
        hugging_face.read_config(values)


@pytest.mark.parametrize(
    ("base", "change", "message"),
    [
        (LLAMA, {"hidden_act": "gelu"}, "'hidden_act': 'gelu' is not supported"),
        (LLAMA, {"quantization_config": {"bits": 4}}, "quantized in 4 bits by transformers, which is not read: take"),
        (LLAMA, {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantized in 4 bits by GPTQ"),
        (LLAMA, {"quantization_config": {"quant_method": "awq"}}, "quantized by AWQ"),
        (LLAMA, {"quantization_config": {"quant_method": "bitsandbytes"}}, "quantized by bitsandbytes"),
        (LLAMA, {"quantization": {"group_size": 64, "bits": 8}}, "quantized in 8 bits by MLX"),
        (LLAMA, {"rope_scaling": {"rope_type": "mrope"}}, "'rope_type': 'mrope' is not supported"),
        (LLAMA, {"rope_scaling": {"type": "linear"}}, "'factor' is missing"),
        (LLAMA, {"rope_scaling": {"rope_type": "yarn", "factor": 2}, "rope_theta": 1}, "yarn it must be above 1"),
        (LLAMA, {"rope_scaling": {"rope_type": "longrope", "long_factor": [1]}}, "'short_factor' is missing"),
        (LLAMA, {"rope_scaling": {"rope_type": "longrope", "short_factor": [0]}}, "'short_factor' must be a list"),
        (LLAMA, {"attention_bias": "yes"}, "'attention_bias' must be true or false"),
        (LLAMA, {"rope_parameters": {"full_attention": {}}}, "differ by layer"),
        (LLAMA, {"rope_scaling": {**STRETCH, "low_freq_factor": 5}}, "low_freq_factor 5 is above"),
        (LLAMA, {"rope_scaling": {**STRETCH, "factor": None}}, "'factor' is missing"),
        (LLAMA, {"rope_scaling": [1]}, "'rope_scaling' must be an object"),
        (LLAMA, {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        (LLAMA, {"hidden_size": None}, "'hidden_size' is missing"),
        (LLAMA, {"hidden_size": "8"}, "'hidden_size' must be a number, it is '8'"),
        (LLAMA, {"hidden_size": True}, "'hidden_size' must be a number"),
        (LLAMA, {"hidden_size": -8}, "'hidden_size' must be a whole number from 1"),
        (LLAMA, {"hidden_size": 8.5}, "whole number"),
        (LLAMA, {"hidden_size": 10**400}, "'hidden_size' must be a number"),
        (LLAMA, {"hidden_size": 2**30}, "whole number from 1 to 1048576"),
        (LLAMA, {"num_hidden_layers": 10**6}, "'num_hidden_layers' must be a whole number from 1 to 4096"),
        (LLAMA, {"rms_norm_eps": math.nan}, "'rms_norm_eps' must be a number"),
        (LLAMA, {"rope_theta": 0}, "'rope_theta' must be above 0"),
        (LLAMA, {"attention_dropout": 1}, "'attention_dropout' must lie from 0 to under 1"),
        (LLAMA, {"tie_word_embeddings": "yes"}, "must be true or false"),
        (GPT2, {"activation_function": "relu"}, "'relu' is not supported, only 'gelu_new'"),
        (GPT2, {"n_inner": 0}, "'n_inner' must be a whole number from 1"),
        (GPT2, {"scale_attn_weights": False}, "scale_attn_weights"),
        (LLAMA4, {"no_rope_layers": [1, 0]}, "names 2 layers of 48"),
        (LLAMA4, {"no_rope_layers": "all"}, "list of whole numbers"),
        (LLAMA4, {"layer_types": ["full_attention"] * 48}, "'layer_types'"),
        (LLAMA4, {"interleave_moe_layer_step": 0}, "interleave_moe_layer_step"),
        (LLAMA4, {"num_local_experts": 10**6}, "num_local_experts"),
        (LLAMA4, {"text_config": "none"}, "'text_config' must be an object"),
    ],
)
def test_what_cannot_be_honored_is_refused_by_name(base, change, message):
    with pytest.raises(LuthierError, match=message) as caught:
        hugging_face.read_config({**base, **change})
    assert len(str(caught.value)) < 250
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", registry.presets())
def test_every_preset_survives_the_way_there_and_back(name):
    config = registry.preset(name)
    assert hugging_face.read_config(hugging_face.format_spec(config).settings.write(config)) == config


layers = st.none() | st.sets(st.integers(0, 4)).map(lambda found: tuple(sorted(found)))


@given(
    st.builds(
        llama4.Config,
        n_layers=st.just(5),
        head_dim=st.sampled_from([None, 64, 256]),
        moe_every=st.integers(1, 6),
        moe_layers=layers,
        global_every=st.integers(1, 6),
        global_layers=layers,
        qk_norm=st.booleans(),
        temperature_tuning=st.booleans(),
        temperature_scale=st.floats(0.01, 2),
        rope_scaling=st.none() | st.builds(RopeScaling, factor=st.floats(1, 32)),
        tie_embeddings=st.booleans(),
        dropout=st.floats(0, 0.9),
    )
)
def test_every_llama4_survives_the_way_there_and_back(config):
    values = hugging_face.format_spec(config).settings.write(config)
    again = hugging_face.read_config(values)
    assert hugging_face.format_spec(again).settings.write(again) == values
    for layer in range(config.n_layers):
        assert (again.is_moe(layer), again.is_global(layer)) == (config.is_moe(layer), config.is_global(layer))


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize(
    ("classes", "kind"),
    [
        (["LLaMAForCausalLM"], "llama"),
        (["LlamaModel"], "llama"),
        (["MistralForCausalLM"], "llama"),
        (None, "llama"),
        (["LlamaModel"], None),
        (["LLaMAForCausalLM"], None),
    ],
)
def test_the_model_type_says_what_a_model_is_and_then_its_class(classes, kind):
    found = hugging_face.read_config({**LLAMA, "architectures": classes, "model_type": kind})
    assert isinstance(found, llama.Config)


@pytest.mark.parametrize(
    ("kind", "need"),
    [
        ("qwen2_moe", "a gate on the shared expert"),
        ("mamba2", "layers that are no attention"),
        ("qwen3_next", "linear attention"),
        ("bert", "an encoder"),
    ],
)
def test_a_model_that_is_close_to_a_known_one_is_refused_with_what_it_needs(kind, need):
    with pytest.raises(LuthierError, match=f"no architecture '{kind}' here \\(it needs {need}.*or open this one with"):
        hugging_face.read_config({"architectures": ["A"], "model_type": kind})


def test_another_model_type_is_not_taken_for_a_known_class():
    with pytest.raises(LuthierError, match="no architecture 'bloom' here"):
        hugging_face.read_config({**LLAMA, "model_type": "bloom"})


@pytest.mark.parametrize(
    ("base", "change"),
    [
        (LLAMA, {"sliding_window": 4096}),
        (GPT2, {"rotary_dim": 3}),
        (LLAMA4, {"new_in_2027": True}),
        (LLAMA, {"rope_scaling": {"rope_type": "linear", "factor": 2, "alpha": 3}}),
    ],
)
def test_a_setting_that_is_not_understood_draws_a_remark(base, change):
    with pytest.warns(Remark, match="is not understood here and is not used") as caught:
        hugging_face.read_config({**base, **change})
    assert len(caught) == 1


def test_the_length_trained_on_may_stand_beside_the_rotary_settings():
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 99}
    values = {**LLAMA, "rope_scaling": rope, "original_max_position_embeddings": 16}
    assert hugging_face.read_config(values).rope_scaling.original_context_length == 16


@pytest.mark.filterwarnings("ignore::luthier.errors.Remark")
@settings(max_examples=200, deadline=None)
@given(st.sampled_from([GPT2, LLAMA, LLAMA4]), st.data())
def test_any_value_in_any_setting_is_a_config_or_a_clear_error(base, data):
    known = hugging_face.read_config(base)
    settings = hugging_face.format_spec(known).settings.write(known)
    values = {**settings, data.draw(st.sampled_from(sorted(settings))): data.draw(json)}
    with contextlib.suppress(LuthierError):
        hugging_face.read_config(values)
