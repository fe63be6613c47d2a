"""`luthier compare`: the first layer where two models part, and what it refuses."""

from __future__ import annotations

import json

import pytest
import torch
from talking_models import byte_tokenizer, save_tiny, tiny

import luthier
from luthier.architectures import llama, registry
from luthier.cli.compare import main
from luthier.errors import LuthierError, Remark, UsageError
from luthier.language_model import LanguageModel

TEXT = "Hello, you"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny", byte_tokenizer())


def changed(folder, change):
    lm = tiny(byte_tokenizer())
    with torch.no_grad():
        change(lm.model)
    lm.save(folder)
    return str(folder)


def test_a_model_agrees_with_itself_in_another_format(model, tmp_path, capsys):
    luthier.load(model).save(tmp_path / "same.gguf", "gguf")
    assert main([model, str(tmp_path / "same.gguf"), TEXT, "--tolerance", "1e-5"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("the models agree: no layer differs by more than 1e-05\n")
    assert "*" not in out


@torch.no_grad()
def test_the_part_that_was_changed_is_the_first_that_differs(model, tmp_path, capsys):
    def change(transformer):
        transformer.layers[1].feed_forward.down.weight[3, 5] += 1

    other = changed(tmp_path / "other", change)
    assert main([model, other, TEXT, "--json", str(tmp_path / "found.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("the models part after layer 1 feed-forward: ")
    marked = [line.split("  ")[0][2:] for line in lines if line.startswith("* ")]
    assert marked == ["layer 1 feed-forward", "final norm", "logits"]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["first"] == "layer 1 feed-forward"
    assert found["divergence_bits"] > 0
    assert [each["relative"] for each in found["differences"][:4]] == [0, 0, 0, 0]
    ids = torch.tensor([found["ids"]])
    a, b = (luthier.load(path).model(ids)[0].log_softmax(-1) for path in (model, other))
    assert found["divergence_bits"] == pytest.approx(float((a.exp() * (a - b)).sum(-1).mean()) / 0.6931472, rel=1e-3)
    for token in found["tokens"]:
        place = token["place"]
        assert token["id"] == found["ids"][place]
        assert token["a"] == pytest.approx(float(a[place - 1, token["id"]].exp()), rel=1e-4)
        assert token["b"] == pytest.approx(float(b[place - 1, token["id"]].exp()), rel=1e-4)


def test_a_quantized_model_parts_by_a_little(model, tmp_path, capsys):
    luthier.load(model).save(tmp_path / "q8.gguf", "gguf", quantize="Q8_0")
    assert main([model, str(tmp_path / "q8.gguf"), TEXT]) == 0
    assert "the models part after embedding" in capsys.readouterr().out
    assert main([model, str(tmp_path / "q8.gguf"), TEXT, "--tolerance", "0.2"]) == 0
    assert "the models agree" in capsys.readouterr().out


def test_a_model_is_compared_with_itself_in_few_bits(model, capsys):
    found = {}
    for kind in ("no", "int8", "int4"):
        assert main([model, model, TEXT, "--quantize", kind]) == 0
        found[kind] = float(capsys.readouterr().out.partition("what comes next: ")[2].split()[0])
    assert found["no"] == 0
    assert 0 < found["int8"] < 0.1 * found["int4"] + 1e-3


def test_what_is_no_number_differs(model, tmp_path, capsys):
    def break_it(transformer):
        transformer.layers[0].attention.value.weight[0, 0] = float("nan")

    other = changed(tmp_path / "broken", break_it)
    with pytest.warns(Remark, match="weights are NaN or infinite"):
        assert main([model, other, TEXT, "--tolerance", "1e9", "--json", str(tmp_path / "found.json")]) == 0
    assert "the models part after layer 0 attention: nan" in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text())["differences"][1]["relative"] is None


def test_models_of_other_shapes_are_compared_by_their_probabilities(model, tmp_path, capsys):
    tokenizer = byte_tokenizer()
    config = llama.Config(tokenizer.vocab_size, 128, 32, 64, 3, 4, 2)
    LanguageModel(registry.build(config, seed=3), tokenizer, config).save(tmp_path / "deep")
    assert main([model, str(tmp_path / "deep"), TEXT]) == 0
    out = capsys.readouterr().out
    assert "other numbers of layers or dims: only their probabilities compare" in out
    assert "p in a" in out
    assert "|a-b|" not in out


def test_control_characters_never_reach_the_terminal(model, capsys):
    assert main([model, model, "a\x1b[31mb"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert r"\x1b" in out


def test_what_cannot_be_compared_is_one_line(model, tmp_path):
    other = save_tiny(tmp_path / "other", byte_tokenizer(("<|im_start|>",)))
    with pytest.raises(LuthierError, match="258 and 257 tokens: only models with the same vocabulary can be"):
        main([model, other, TEXT])
    with pytest.raises(LuthierError, match="the text has 200 tokens, and the context is 128: give a shorter text"):
        main([model, model, "x" * 200])
    with pytest.raises(UsageError, match=r"tolerance=-1\.0 must be a number from 0 on"):
        main([model, model, TEXT, "--tolerance", "-1"])
    with pytest.raises(UsageError, match="tolerance=inf must be"):
        main([model, model, TEXT, "--tolerance", "inf"])


def test_other_tokens_are_an_error_that_says_where(model, tmp_path):
    from luthier.tokenizers.core.train import train_bpe

    tokenizer = train_bpe(["Hello, you there " * 20], 258)
    config = llama.Config(tokenizer.vocab_size, 128, 32, 64, 2, 4, 2)
    LanguageModel(registry.build(config), tokenizer, config).save(tmp_path / "m")
    with pytest.raises(LuthierError, match=r"into other tokens, from token 0 on.*luthier eval"):
        main([model, str(tmp_path / "m"), TEXT])


def test_settings_without_effect_are_said(model, tmp_path, capsys):
    with pytest.warns(Remark, match=r"dtype='bfloat16' is for .*tiny: with quantize='int8' the other computes in bfl"):
        assert main([model, model, TEXT, "--quantize", "int8", "--dtype", "bfloat16"]) == 0
    config = llama.Config(258, 64, dim=16, hidden_dim=24, n_layers=1, n_heads=2, n_kv_heads=1)
    LanguageModel(registry.build(config), byte_tokenizer(), config).save(tmp_path / "other")
    with pytest.warns(Remark, match=r"tolerance=0\.5 has no effect: the models have no layers in common"):
        assert main([model, str(tmp_path / "other"), TEXT, "--tolerance", "0.5"]) == 0
    assert main([model, str(tmp_path / "other"), TEXT]) == 0
