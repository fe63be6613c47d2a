"""Settings of the families near Llama that are read in more than one way, or not at all."""

from __future__ import annotations

import pytest
import torch
from gguf_models import random_model
from llama_kin_gguf import CONFIGS
from test_gguf_models import foreign

from luthier.architectures import mistral, olmo, qwen2
from luthier.errors import LuthierError
from luthier.model_files import gguf, hugging_face

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 97,
    "moe_intermediate_size": 24,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LOCAL, GLOBAL = "sliding_attention", "full_attention"


def read(kind: str, **settings: object):
    sizes = {name: size for name, size in SIZES.items() if kind == "qwen3_moe" or name != "moe_intermediate_size"}
    return hugging_face.read_config({**sizes, "model_type": kind, **settings})


def test_a_window_that_is_null_is_none_and_one_that_is_missing_the_default_of_its_class():
    assert read("mistral").window == 4096
    assert read("mistral", sliding_window=None).window is None
    assert read("mixtral").window is None
    assert read("olmo3").window == 4096
    assert read("olmo2").window is None


def test_windows_of_layers_are_read_from_lists_and_from_a_first_layer():
    found = [
        read("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=2),
        read("qwen2", use_sliding_window=True, sliding_window=8, layer_types=[GLOBAL, GLOBAL, LOCAL, LOCAL]),
    ]
    assert {(config.window, config.global_layers) for config in found} == {(8, (0, 1))}
    assert read("qwen2", sliding_window=8, max_window_layers=2).window is None
    assert read("qwen2", use_sliding_window=True, sliding_window=8).window is None, "the first 28 have none"
    assert read("olmo3").global_layers == (3,)
    assert read("ministral", layer_types=[LOCAL, LOCAL, GLOBAL, LOCAL]).global_layers == (2,)
    assert read("qwen3_moe", use_sliding_window=True, sliding_window=8, max_window_layers=2).global_layers is None


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_scaling": YARN, "rope_theta": 500_000.0},
        {"rope_parameters": {**YARN, "rope_theta": 500_000.0}},
        {"rope_parameters": {GLOBAL: {**YARN, "rope_theta": 500_000.0}, LOCAL: {"rope_theta": 500_000.0}}},
    ],
)
def test_the_scaling_of_olmo_3_is_that_of_its_global_layers_in_every_form(rope):
    config = read("olmo3", **rope)
    assert config.rope_scaling is not None
    steps = [block.attention.rope for block in olmo.build(config).layers]
    assert [step.scaling is not None for step in steps] == [False, False, False, True]


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("qwen2", {"layer_types": [LOCAL]}, "'layer_types' must be 4 times"),
        ("qwen3", {"layer_types": [LOCAL, "linear_attention", LOCAL, LOCAL]}, "'layer_types' must be 4 times"),
        ("qwen3", {"hidden_act": "gelu"}, "'hidden_act'"),
        ("smollm3", {"no_rope_layers": [1]}, "'no_rope_layers' (names|lists) 1 "),
        ("smollm3", {"layer_types": [LOCAL] * 4}, "'use_sliding_window' is false"),
        ("olmo3", {"rope_parameters": {GLOBAL: {}, LOCAL: {"rope_theta": 7.0}}}, "'rope_parameters' of sliding"),
        ("olmo3", {"rope_parameters": {GLOBAL: {}, LOCAL: YARN}}, "'rope_parameters' of sliding"),
        ("granitemoehybrid", {}, "'mamba'"),
        ("granitemoehybrid", {"layer_types": ["attention", "mamba"] * 2}, "'mamba' is not supported"),
        ("granitemoehybrid", {"layer_types": ["attention"] * 4, "num_local_experts": 4}, "num_local_experts"),
        ("granitemoehybrid", {"layer_types": ["attention"] * 4, "num_local_experts": 0}, "position_embedding_type"),
        ("granitemoehybrid", {"layer_types": 7}, "'layer_types' must be a list"),
        ("ernie4_5", {"use_bias": True}, "'use_bias'"),
        ("helium", {"attention_bias": True}, "'attention_bias'"),
        ("arcee", {"hidden_act": "silu"}, "'hidden_act'"),
        ("qwen3_moe", {"shared_expert_intermediate_size": 8}, "'shared_expert_intermediate_size'"),
    ],
)
def test_what_is_not_supported_is_named(kind, settings, message):
    with pytest.raises(LuthierError, match=message):
        read(kind, **settings)


def test_the_windows_of_a_gguf_file_are_read_from_a_period_and_from_flags(tmp_path):
    """llama.cpp's converter writes a flag for each layer."""
    config = CONFIGS["olmo3"]
    flags = {"olmo2.attention.sliding_window_pattern": [True, True, True, False]}
    path = foreign(tmp_path / "a.gguf", config, **flags)
    assert gguf.read(path, torch.device("cpu"), None).config == config
    path = foreign(tmp_path / "a.gguf", config, **{"olmo2.attention.sliding_window_pattern": 2})
    assert gguf.read(path, torch.device("cpu"), None).config.global_layers == (1, 3)


def test_files_of_one_architecture_of_llama_cpp_open_as_the_family_that_they_were_written_from(tmp_path):
    found = {}
    for name in ("mistral", "mixtral", "helium", "llama"):
        config = {**CONFIGS, "llama": mistral.Config(**SMALL)}[name]
        if name == "llama":  # as llama.cpp's converter writes a Mistral
            path = foreign(tmp_path / "a.gguf", config)
        else:
            path = tmp_path / "a.gguf"
            gguf.write(path, gguf.LoadedModel(random_model(config), config, None))
        found[name] = type(gguf.read(path, torch.device("cpu"), None).config).__module__.rpartition(".")[2]
    assert found == {name: name for name in found}


SMALL = {
    "vocab_size": 97,
    "context_length": 64,
    "dim": 32,
    "hidden_dim": 48,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
}


def test_qwen2_writes_its_windows_so_that_older_readers_find_them():
    values = hugging_face.format_spec(config := qwen2.Config(**SMALL, window=8, global_layers=(0,))).settings.write(
        config
    )
    assert (values["use_sliding_window"], values["sliding_window"], values["max_window_layers"]) == (True, 8, 1)
    assert values["layer_types"] == [GLOBAL, LOCAL]
