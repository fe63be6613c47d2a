"""Folders that transformers and Luthier both open: what one writes, the other reads, to the last bit."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from peers import LLAMA4, MODELS, SCALING_31, SCALING_SCOUT, gpt2, llama, llama4, randomize, tokens, twin
from safetensors.torch import load_file
from torch.testing import assert_close

import luthier
from luthier.architectures import gpt2 as our_gpt2
from luthier.architectures import registry
from luthier.formats.safetensors_files import INDEX
from luthier.language_model import LanguageModel
from luthier.model_files import hugging_face

CLOSE = {"atol": 1e-4, "rtol": 0.0}


def open_in_transformers(folder):
    """The model, after checking that transformers found all its weights and no others."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def stored(folder):
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def assert_same_tensors(folder, other):
    ours, theirs = stored(folder), stored(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_a_folder_goes_through_luthier_unchanged(kind, tmp_path):
    peer = MODELS[kind]()
    peer.save_pretrained(tmp_path / "theirs")
    lm = luthier.load(tmp_path / "theirs")
    logits = peer(tokens()).logits
    assert_close(lm.model(tokens()), logits, **CLOSE)
    lm.save(tmp_path / "ours")
    assert_same_tensors(tmp_path / "ours", tmp_path / "theirs")
    assert_close(open_in_transformers(tmp_path / "ours")(tokens()).logits, logits, atol=1e-6, rtol=0)
    assert luthier.load(tmp_path / "ours").config == lm.config


@pytest.mark.parametrize("make", [gpt2, llama, llama4])
@torch.no_grad()
def test_shards_are_read_and_written(make, tmp_path):
    peer = make()
    peer.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    lm = luthier.load(tmp_path / "theirs")
    lm.save(tmp_path / "ours", shard_bytes=20_000)
    for folder in ("theirs", "ours"):
        assert len(list((tmp_path / folder).glob("model-*-of-*.safetensors"))) > 2
    assert_same_tensors(tmp_path / "ours", tmp_path / "theirs")
    assert_close(open_in_transformers(tmp_path / "ours")(tokens()).logits, peer(tokens()).logits, atol=1e-6, rtol=0)
    lm.save(tmp_path / "ours")
    assert not list((tmp_path / "ours").glob("model-*")), "shards of the earlier save stayed"
    assert not (tmp_path / "ours" / INDEX).exists()
    assert_same_tensors(tmp_path / "ours", tmp_path / "theirs")


@torch.no_grad()
def test_gpt2_without_biases_gets_zeros_in_transformers_and_loses_them_again(tmp_path):
    config = our_gpt2.Config(97, 64, 24, 2, 3, qkv_bias=False, tie_embeddings=False)
    model = randomize(registry.build(config))
    LanguageModel(model, None, config).save(tmp_path)
    peer = open_in_transformers(tmp_path)
    assert not peer.transformer.h[1].attn.c_attn.bias.any()
    assert_close(peer(tokens()).logits, model(tokens()), **CLOSE)
    again = luthier.load(tmp_path)
    assert again.config == config
    for name, weight in again.model.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name]), name


def edit_json(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def to_form_of_transformers_4(values):
    rope = values.pop("rope_parameters")
    values["rope_theta"] = rope.pop("rope_theta")
    values["rope_scaling"] = rope if rope["rope_type"] != "default" else None
    values["torch_dtype"] = values.pop("dtype")


@pytest.mark.parametrize("make", [llama, llama4])
@pytest.mark.parametrize("rope", [SCALING_31, {"rope_type": "default", "rope_theta": 777.0}])
def test_configs_of_transformers_4_and_5_are_the_same(make, rope, tmp_path):
    make(rope_parameters=rope).save_pretrained(tmp_path)
    new = luthier.load(tmp_path).config
    assert new.rope_theta == rope["rope_theta"]
    edit_json(tmp_path / "config.json", to_form_of_transformers_4)
    assert luthier.load(tmp_path).config == new


@pytest.mark.parametrize("make", [gpt2, llama])
def test_files_without_the_usual_prefix_and_with_old_buffers_open(make, tmp_path):
    """As GPT-2 lies on the hub, and as a bare LlamaModel is saved."""
    peer = make(tie_word_embeddings=True)
    peer.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights = {name.removeprefix("transformer.").removeprefix("model."): weight for name, weight in weights.items()}
    if make is gpt2:
        weights["h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
        weights["h.1.attn.masked_bias"] = torch.tensor(-1e4)
    else:
        weights["layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    weights["lm_head.weight"] = peer.get_input_embeddings().weight.data.clone()
    (tmp_path / "model.safetensors").unlink()
    transformers.modeling_utils.safe_save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    lm = luthier.load(tmp_path)
    assert_close(lm.model(tokens()), peer(tokens()).logits, **CLOSE)
    assert lm.model.output.weight is lm.model.embedding.weight


@torch.no_grad()
def test_the_text_part_of_a_multimodal_llama4_opens(tmp_path):
    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "vision_output_dim": 16,
        "image_size": 28,
        "projector_input_dim": 16,
        "projector_output_dim": 16,
    }
    config = transformers.Llama4Config(text_config={**LLAMA4, "rope_parameters": SCALING_SCOUT}, vision_config=vision)
    peer = randomize(transformers.Llama4ForConditionalGeneration(config))
    peer.save_pretrained(tmp_path)
    lm = luthier.load(tmp_path)
    assert_close(lm.model(tokens()), peer.language_model(tokens()).logits, **CLOSE)
    lm.save(tmp_path / "text")
    assert_close(open_in_transformers(tmp_path / "text")(tokens()).logits, lm.model(tokens()), **CLOSE)


@pytest.mark.parametrize("make", [gpt2, llama, llama4])
@torch.no_grad()
def test_half_precision_keeps_its_type(make, tmp_path):
    peer = make().to(torch.bfloat16)
    peer.save_pretrained(tmp_path / "theirs")
    lm = luthier.load(tmp_path / "theirs")
    assert {weight.dtype for weight in lm.model.parameters()} == {torch.bfloat16}
    lm.save(tmp_path / "ours")
    assert json.loads((tmp_path / "ours/config.json").read_text())["dtype"] == "bfloat16"
    assert_same_tensors(tmp_path / "ours", tmp_path / "theirs")
    wide = luthier.load(tmp_path / "theirs", dtype=torch.float32)
    assert {weight.dtype for weight in wide.model.parameters()} == {torch.float32}
    assert_close(wide.model(tokens()), twin(peer.float())(tokens()))


def test_the_config_of_every_preset_comes_back():
    for name, config in registry.presets().items():
        values = hugging_face.format_spec(config).settings.write(config)
        assert hugging_face.read_config(json.loads(json.dumps(values))) == config, name


# the first and the nano of each family, and those of other classes than theirs
COUNTED = {
    *(
        name
        for family in registry.FAMILIES.values()
        if family.name != "composed"  # transformers has no such class
        for name in (next(iter(family.sizes)), f"{family.name}-nano")
    ),
    *("gpt2-course", "llama3.2-1b", "llama4-maverick", "olmo3-7b", "granite4.0-micro", "deepseek-v3", "gemma3-4b"),
} & set(registry.presets())


@pytest.mark.parametrize("name", sorted(COUNTED))
def test_a_preset_has_a_config_that_transformers_counts_alike(name):
    config = registry.preset(name)
    values = hugging_face.format_spec(config).settings.write(config)
    their_config = transformers.AutoConfig.for_model(**{"pad_token_id": None, **values})
    with torch.device("meta"):
        peer = transformers.AutoModelForCausalLM.from_config(their_config)
    has_all = not isinstance(config, our_gpt2.Config) or config.qkv_bias
    biases = 0 if has_all else config.n_layers * 3 * config.dim  # zeros in transformers
    theirs = sum(weight.numel() for weight in peer.parameters())
    theirs += sum(buffer.numel() for name, buffer in peer.named_buffers() if name.endswith("correction_bias"))
    assert theirs == registry.count_parameters(config)[0] + biases
