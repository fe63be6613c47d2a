"""Opening and saving a model as a person does it, without transformers (see tests/parity for that)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

import luthier
from luthier.architectures import gpt2, llama, llama4, registry
from luthier.errors import LuthierError, UsageError
from luthier.formats.safetensors_files import INDEX
from luthier.language_model import LanguageModel

CONFIGS = {
    "gpt2": gpt2.Config(31, 16, 8, 2, 2, dropout=0.1),
    "gpt2-course": gpt2.Config(31, 16, 8, 2, 2, qkv_bias=False, tie_embeddings=False, dropout=0.1),
    "llama": llama.Config(31, 16, 8, 12, 2, 2, 1, tie_embeddings=True, dropout=0.2),
    "llama4": llama4.Config(31, 16, 8, 8, 12, 2, 2, 1, n_experts=3, moe_every=2, attention_chunk=8),
}
TOKENS = torch.arange(10)[None]


class FakeTokenizer:
    """What saving asks of a tokenizer."""

    bos_id, eos_id, pad_id = 3, 4, None
    eos_ids = (4, 7)

    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{}")


def fresh(kind: str) -> LanguageModel:
    return LanguageModel(registry.build(CONFIGS[kind]), None, CONFIGS[kind])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fresh("llama").save(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_is_saved_is_what_is_opened(kind, tmp_path):
    lm = fresh(kind)
    lm.save(tmp_path)
    again = luthier.load(tmp_path)
    assert again.config == lm.config
    assert not again.model.training
    weights = lm.model.state_dict()
    for name, weight in again.model.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    assert torch.equal(again.model(TOKENS), lm.model.eval()(TOKENS))


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_opened_model_can_be_trained_on(kind, tmp_path):
    fresh(kind).save(tmp_path)
    model = luthier.load(tmp_path).model.train()
    assert not [name for name, buffer in model.named_buffers() if buffer.is_meta or buffer.any()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model(TOKENS).square().mean()
    before.backward()
    assert all(weight.grad is not None for name, weight in model.named_parameters() if "experts" not in name)
    optimizer.step()
    assert not torch.equal(model(TOKENS).square().mean(), before)
    if CONFIGS[kind].tie_embeddings:
        assert model.output.weight is model.embedding.weight
    assert torch.equal(luthier.load(tmp_path).model(TOKENS), fresh(kind).model.eval()(TOKENS)), "the file has changed"


@pytest.mark.parametrize("opened", [True, False])
def test_the_sums_over_inputs_of_experts_stay_exact_whatever_the_dtype_of_the_weights(opened, tmp_path):
    fresh("llama4").save(tmp_path)
    if opened:
        model = luthier.load(tmp_path, dtype=torch.bfloat16).model
    else:
        model = registry.build(CONFIGS["llama4"], dtype=torch.bfloat16)
    assert model.blocks[1].feed_forward.input_sum.dtype == torch.float32
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_weights_are_mapped_and_not_copied(folder):
    weight = luthier.load(folder).model.blocks[0].feed_forward.up.weight
    lines = Path("/proc/self/maps").read_text().splitlines()
    spans = [line.split()[0].split("-") for line in lines if line.endswith(f"{folder}/model.safetensors")]
    assert any(int(start, 16) <= weight.data_ptr() < int(end, 16) for start, end in spans)


def test_a_model_saves_over_the_folder_it_came_from(folder):
    lm = luthier.load(folder)
    with torch.no_grad():
        lm.model.norm.weight.fill_(3.0)
    logits = lm.model(TOKENS)
    lm.save(folder)
    assert torch.equal(lm.model(TOKENS), logits), "the mapped weights changed with the file"
    assert torch.equal(luthier.load(folder).model(TOKENS), logits)


def test_the_folder_says_which_tokens_begin_and_end(tmp_path):
    lm = fresh("gpt2")
    LanguageModel(lm.model, FakeTokenizer(), lm.config).save(tmp_path)
    for name in ("config.json", "generation_config.json"):
        values = json.loads((tmp_path / name).read_text())
        assert (values["bos_token_id"], values["eos_token_id"], values["pad_token_id"]) == (3, [4, 7], None)
    assert (tmp_path / "tokenizer.json").exists()
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float32"


def test_without_a_tokenizer_the_model_works_and_says_so(folder):
    lm = luthier.load(folder)
    with pytest.raises(LuthierError, match="without a tokenizer"):
        _ = lm.tokenizer


def test_dtype_is_that_of_the_file_unless_given(folder):
    half = luthier.load(folder, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    half.save(folder)
    assert luthier.load(folder).dtype == torch.bfloat16
    assert luthier.load(folder, dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_a_wrong_setting(device, folder):
    with pytest.raises(UsageError, match=f"device '{device}' is not available here"):
        luthier.load(folder, device=device)


@pytest.mark.parametrize("path", ["nothing", "empty"])
def test_what_cannot_be_opened_gets_the_list_of_what_can(path, folder):
    root = folder.parent
    (root / "empty").mkdir()
    with pytest.raises(LuthierError, match=rf"{path}.*what opens is a training run"):
        luthier.load(root / path)


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_hidden_layers": 3}, r"missing: 'model\.layers\.2\.input_layernorm\.weight' \(8,\),.* and 6 more"),
        ({"num_hidden_layers": 1}, r"unknown: 'model\.layers\.1\."),
        ({"intermediate_size": 13}, r"'model\.layers\.0\.mlp\.gate_proj\.weight' is \(12, 8\) and must be \(13, 8\)"),
        ({"num_attention_heads": 3, "num_key_value_heads": 2}, "n_heads 3 is not a multiple"),
        ({"tie_word_embeddings": False}, r"missing: 'lm_head\.weight' \(31, 8\)"),
        ({"model_type": "falcon"}, "no architecture 'falcon'"),
        ({"hidden_size": 2**20, "vocab_size": 2**20, "num_hidden_layers": 2}, "of another shape"),
    ],
)
def test_weights_and_config_that_do_not_fit_are_one_line_that_names_them(values, message, folder):
    change(folder / "config.json", **values)
    with pytest.raises(LuthierError, match=message) as caught:
        luthier.load(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00", "[" * 100_000])
def test_a_config_that_is_no_json_object_is_named(text, folder):
    (folder / "config.json").write_text(text)
    with pytest.raises(LuthierError, match=r"config\.json"):
        luthier.load(folder)


def test_an_unknown_format_is_a_wrong_setting(tmp_path):
    with pytest.raises(UsageError, match="no format 'onnx'; there are hf, gguf, meta"):
        fresh("llama").save(tmp_path / "out", format="onnx")
    assert not (tmp_path / "out").exists()


def test_a_save_that_fails_leaves_the_old_model(folder, monkeypatch):
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("luthier.formats.safetensors_files.write_file", full)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(LuthierError, match=r"cannot write .*: No space left on device"):
        fresh("gpt2").save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_another_model_in_the_same_folder_replaces_the_first(folder):
    fresh("llama4").save(folder, shard_bytes=1000)
    assert luthier.load(folder).config == CONFIGS["llama4"]
    fresh("gpt2").save(folder)
    assert luthier.load(folder).config == CONFIGS["gpt2"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]
    assert not (folder / INDEX).exists()
