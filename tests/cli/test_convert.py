"""`luthier convert`: what it writes opens again, and what it refuses changes nothing."""

from __future__ import annotations

import pytest
import torch

import luthier
from luthier.architectures import llama, llama4, registry
from luthier.cli.main import main
from luthier.errors import LuthierError, UsageError
from luthier.language_model import LanguageModel
from luthier.tokenizers.core.train import train_bpe


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tokenizer = train_bpe(["the cat sat on the mat and the dog ran " * 20], 300)
    config = llama.Config(tokenizer.vocab_size, 64, 32, 64, 2, 4, 2)
    LanguageModel(registry.build(config, seed=3), tokenizer, config).save(folder)
    return folder


@pytest.mark.parametrize(("to", "name"), [("gguf", "a.gguf"), ("meta", "a"), ("hf", "a")])
def test_a_model_converted_there_and_back_is_the_same(model, tmp_path, to, name, capsys):
    assert main(["convert", str(model), str(tmp_path / name), "--to", to]) == 0
    assert f": {to}, 0." in capsys.readouterr().err
    assert main(["convert", str(tmp_path / name), str(tmp_path / "back"), "--to", "hf"]) == 0
    before, after = luthier.load(model), luthier.load(tmp_path / "back")
    assert before.config == after.config
    for name, weight in before.model.state_dict().items():
        assert torch.equal(weight, after.model.state_dict()[name]), name
    prompt = "the cat sat"
    assert before.generate(prompt, max_new_tokens=9, seed=4) == after.generate(prompt, max_new_tokens=9, seed=4)


def test_numbers_can_be_made_smaller(model, tmp_path):
    assert main(["convert", "--quantize", "Q8_0", "--to", "gguf", str(model), str(tmp_path / "q.gguf")]) == 0
    assert main(["convert", str(model), str(tmp_path / "half"), "--to", "hf", "--dtype", "bfloat16"]) == 0
    assert luthier.load(tmp_path / "half").dtype == torch.bfloat16
    whole = luthier.load(model).model.state_dict()
    for name, weight in luthier.load(tmp_path / "q.gguf", dtype=torch.float32).model.state_dict().items():
        assert (weight - whole[name]).abs().max() <= whole[name].abs().max() / 100, name


def test_weights_can_lie_in_several_files(model, tmp_path):
    arguments = ["convert", str(model), str(tmp_path / "out"), "--to", "hf", "--shard-size", "0.00005"]
    assert main(arguments) == 0
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    assert luthier.load(tmp_path / "out").generate("the", max_new_tokens=3)


def test_what_cannot_be_done_is_one_line(model, tmp_path, capsys):
    assert main(["convert", str(model), str(tmp_path / "m"), "--to", "meta", "--quantize", "Q8_0"]) == 2
    assert "--quantize is for --to gguf" in capsys.readouterr().err
    assert main(["convert", str(model), str(model), "--to", "hf"]) == 2
    assert "is already there" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "no"), str(tmp_path / "m"), "--to", "hf"]) == 1
    assert "there is no" in capsys.readouterr().err
    gpt2 = registry.preset("gpt2-nano")
    LanguageModel(registry.build(gpt2), None, gpt2).save(tmp_path / "gpt2")
    assert main(["convert", str(tmp_path / "gpt2"), str(tmp_path / "m"), "--to", "meta"]) in (1, 2)
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "m").exists()


def test_what_llama_cpp_would_compute_otherwise_is_said(tmp_path, capsys):
    config = llama4.Config(64, 32, 16, 16, 16, 2, 2, 1, n_experts=2, attention_chunk=8)
    LanguageModel(registry.build(config), None, config).save(tmp_path / "m")
    assert main(["convert", str(tmp_path / "m"), str(tmp_path / "m.gguf"), "--to", "gguf"]) == 0
    assert "luthier: warning: llama.cpp" in capsys.readouterr().err


def test_a_model_opened_in_fewer_bits_speaks_and_is_not_saved(tmp_path):
    tokenizer = train_bpe(["the cat sat on the mat and the dog ran " * 20], 300)
    config = llama.Config(tokenizer.vocab_size, 64, 64, 128, 2, 4, 2)
    LanguageModel(registry.build(config, seed=3), tokenizer, config).save(tmp_path / "m")
    for kind in ("int8", "int4"):
        lm = luthier.load(tmp_path / "m", quantize=kind)
        assert lm.generate("the cat", max_new_tokens=5)
        with pytest.raises(LuthierError, match="was opened with quantize: open it without to save it"):
            lm.save(tmp_path / "again")
    with pytest.raises(UsageError, match="leave device and dtype out"):
        luthier.load(tmp_path / "m", quantize="int8", dtype=torch.float32)
    assert main(["generate", str(tmp_path / "m"), "the cat", "--quantize", "int4", "--dtype", "float32"]) == 2
    assert main(["generate", str(tmp_path / "m"), "the cat", "--quantize", "int4", "--max-new-tokens", "3"]) == 0
