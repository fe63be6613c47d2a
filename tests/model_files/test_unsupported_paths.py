"""What cannot be opened says what it is and what to do, in one line."""

from __future__ import annotations

import json

import pytest
import torch

import luthier
from luthier.architectures import llama, registry
from luthier.errors import LuthierError, UsageError
from luthier.language_model import LanguageModel
from luthier.model_files import hub

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 1234\n"
CONFIG = llama.Config(61, 32, 32, 48, n_layers=1, n_heads=4, n_kv_heads=2)


@pytest.fixture
def folder(tmp_path):
    """A model's folder."""
    path = tmp_path / "model"
    LanguageModel(registry.build(CONFIG), None, CONFIG).save(path)
    return path


def complaint(path) -> str:
    with pytest.raises(LuthierError) as caught:
        luthier.load(path)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "tokenizer.model"])
def test_a_git_lfs_pointer_in_a_folder(name, folder):
    (folder / name).write_bytes(POINTER)
    assert f"{folder / name} is a Git LFS pointer, not the file itself: run `git lfs pull`" in complaint(folder)


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (POINTER, "is a Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "is a web page (HTML)"),
        (b"\n <html>", "is a web page (HTML)"),
    ],
)
def test_what_a_file_is_that_was_downloaded_in_place_of_a_model(start, what, tmp_path):
    for name in ("m.gguf", "model.pth"):
        (tmp_path / name).write_bytes(start)
        assert f"{tmp_path / name} {what}" in complaint(tmp_path / name)


def test_a_peft_adapter(tmp_path, folder):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"x")
    assert "is a PEFT adapter of 'org/base', not a whole model: merge it" in complaint(tmp_path)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.warns(luthier.errors.Remark, match=r"adapter_config\.json is not read"):
        luthier.load(folder)


@pytest.mark.parametrize(
    ("settings", "whose"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantized in 4 bits by GPTQ"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "quantized in 4 bits by AWQ"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "quantized by bitsandbytes"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "quantized in 4 bits by MLX"),
    ],
)
def test_weights_that_others_quantized(settings, whose, folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **settings}))
    text = complaint(folder)
    assert whose in text
    assert "take the original model, or a .gguf file" in text


def test_packed_weights_that_no_setting_speaks_of(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.self_attn.q_proj.qweight"] = torch.zeros(4, 4, dtype=torch.int32)
    save_file(weights, folder / "model.safetensors")
    assert "quantized by GPTQ or AWQ" in complaint(folder)


def test_shards_without_an_index(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    text = complaint(folder)
    assert "holds model-00001-of-00002.safetensors and no model.safetensors.index.json: download that file too" in text


def test_a_cache_of_the_hub(tmp_path, folder):
    snapshots = tmp_path / "hub" / "models--org--name" / "snapshots"
    snapshots.mkdir(parents=True)
    for path in (tmp_path / "hub", tmp_path, tmp_path / "hub/models--org--name"):
        assert "hf:org/name" in complaint(path)
    folder.rename(snapshots / "abc")
    assert luthier.load(snapshots / "abc").config == CONFIG


def test_a_folder_that_holds_a_gguf_file(tmp_path):
    (tmp_path / "m.Q4_0.gguf").write_bytes(b"GGUF")
    assert f"open that file, {tmp_path / 'm.Q4_0.gguf'}" in complaint(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "generation_config.json"])
def test_the_path_of_a_file_of_a_model(name, folder):
    assert f"is one file of a model: open its folder, {folder}" in complaint(folder / name)


def test_a_name_on_the_hub_without_its_prefix(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert complaint("org/some-name") == "there is no org/some-name; did you mean hf:org/some-name?"
    assert "did you mean" not in complaint("no-such-folder")


@pytest.mark.parametrize("weights", ["consolidated.safetensors", "consolidated.00.pth"])
def test_mistrals_own_format(weights, tmp_path):
    params = {
        "dim": 32,
        "n_layers": 1,
        "head_dim": 8,
        "hidden_dim": 48,
        "n_heads": 4,
        "n_kv_heads": 2,
        "vocab_size": 61,
    }
    (tmp_path / "params.json").write_text(json.dumps(params))
    registry_model = registry.build(CONFIG)
    torch.save(registry_model.state_dict(), tmp_path / weights)
    assert "is a model in Mistral's own format" in complaint(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["config.json"], "has a config.json and no weights beside it"),
        (["model.safetensors"], "holds weights and no config.json"),
        (["config.json", "tf_model.h5"], "holds weights in tf_model.h5 (TensorFlow's)"),
        ([], "holds no model that can be read: what opens is"),
    ],
)
def test_a_folder_that_lacks_something(files, message, tmp_path):
    for name in files:
        (tmp_path / name).write_text("{}")
    assert message in complaint(tmp_path)


@pytest.mark.parametrize(
    "name", ["hf:a/b/../../../x.gguf", "hf:a/b/../x.gguf", "hf:a/b/./x.gguf", "hf:a/b@../x", "hf:../b", "hf:a/.."]
)
def test_a_name_on_the_hub_does_not_leave_its_model(name):
    with pytest.raises(UsageError, match="is not a name on the hub"):
        hub.fetch(name)
