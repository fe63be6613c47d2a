"""Folders from before safetensors: pytorch_model.bin, whole or in shards, read without being unpickled."""

from __future__ import annotations

import json
import os
import pickle

import pytest
import torch
import transformers
from torch.testing import assert_close

import luthier
from luthier.errors import LuthierError

TOKENS = torch.arange(20)[None]


def gpt2():
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=97, n_positions=64, n_embd=24, n_layer=2, n_head=3)
    ).eval()


def llama(**settings):
    torch.manual_seed(0)
    sizes = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 40, "max_position_embeddings": 64}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads, **settings)).eval()


def folder_of(path, peer, names=lambda name: name):
    path.mkdir()
    peer.config.architectures = [type(peer).__name__]
    peer.config.save_pretrained(path)
    return {names(name): weight for name, weight in peer.state_dict().items()}


@pytest.mark.parametrize("make", [gpt2, llama])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@torch.no_grad()
def test_a_folder_with_one_file_opens(make, prefix, tmp_path):
    peer = make()
    torch.save(folder_of(tmp_path / "a", peer, lambda name: prefix + name), tmp_path / "a" / "pytorch_model.bin")
    assert_close(luthier.load(tmp_path / "a").model(TOKENS), peer(TOKENS).logits, atol=1e-4, rtol=0)


@torch.no_grad()
def test_shards_open_by_their_index(tmp_path):
    peer, folder = llama(), tmp_path / "a"
    weights = folder_of(folder, peer)
    names = sorted(weights)
    shards = {f"pytorch_model-0000{n + 1}-of-00002.bin": names[n::2] for n in range(2)}
    for file, held in shards.items():
        torch.save({name: weights[name] for name in held}, folder / file)
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {name: file for file, held in shards.items() for name in held}}))
    assert_close(luthier.load(folder).model(TOKENS), peer(TOKENS).logits, atol=1e-4, rtol=0)
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(LuthierError, match=r"pytorch_model-00002-of-00002\.bin is missing"):
        luthier.load(folder)
    index.write_text(json.dumps({"weight_map": {"a": "../../etc/passwd.bin"}}))
    with pytest.raises(LuthierError, match=r"is not the name of a \.bin file in this folder"):
        luthier.load(folder)
    index.unlink()
    with pytest.raises(LuthierError, match=r"and no pytorch_model\.bin\.index\.json"):
        luthier.load(folder)


def test_a_file_that_would_run_a_program_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, ("touch ran",)

    folder_of(tmp_path / "a", llama())
    torch.save({"model.norm.weight": Evil()}, tmp_path / "a" / "pytorch_model.bin", pickle_module=pickle)
    with pytest.raises(LuthierError, match="nothing was executed"):
        luthier.load(tmp_path / "a")
    assert not (tmp_path / "ran").exists()


@torch.no_grad()
def test_an_output_matrix_that_differs_is_kept_with_a_remark(tmp_path):
    peer = llama(tie_word_embeddings=False)
    peer.save_pretrained(tmp_path / "a")
    path = tmp_path / "a" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tie_word_embeddings": True}))
    with pytest.warns(luthier.errors.Remark, match=r"'lm_head\.weight' differs from 'model\.embed_tokens\.weight'"):
        lm = luthier.load(tmp_path / "a")
    assert not lm.config.tie_embeddings
    assert_close(lm.model(TOKENS), peer(TOKENS).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_that_are_no_numbers_are_said_when_a_model_opens(value, dtype, tmp_path):
    peer = llama().to(dtype)
    peer.model.layers[1].mlp.up_proj.weight.data[3, 5] = value
    peer.save_pretrained(tmp_path / "a")
    with pytest.warns(luthier.errors.Remark, match=r"NaN or infinite, in blocks\.1\.feed_forward\.up\.weight: "):
        luthier.load(tmp_path / "a")


def test_large_numbers_are_no_broken_ones(tmp_path):
    peer = llama().half()
    peer.model.norm.weight.data.fill_(60_000.0)  # their sum is beyond what 16 bits hold
    peer.save_pretrained(tmp_path / "a")
    luthier.load(tmp_path / "a")


def test_a_padding_token_beyond_the_vocabulary_opens_with_a_remark(tmp_path):
    from tokenizers import Tokenizer, models

    folder = tmp_path / "a"
    llama().save_pretrained(folder)
    backend = Tokenizer(models.WordLevel({f"w{i}": i for i in range(97)}, unk_token="w0"))
    backend.add_special_tokens(["[PAD]"])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]"}))
    with pytest.warns(luthier.errors.Remark, match="the padding token 97 is beyond the model's 97 tokens"):
        lm = luthier.load(folder)
    assert lm.tokenizer.pad_id == 97
    lm.save(tmp_path / "b")
    assert json.loads((tmp_path / "b" / "config.json").read_text())["pad_token_id"] is None


def test_a_broken_scale_in_a_packed_file_is_said(tmp_path):
    from luthier.formats.gguf_file import GGUFFile

    sizes = {"vocab_size": 97, "hidden_size": 64, "intermediate_size": 96}
    peer = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**sizes, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=64)
    )
    peer.save_pretrained(tmp_path / "a")
    path = tmp_path / "a.gguf"
    luthier.load(tmp_path / "a").save(path, "gguf", quantize="Q4_0")
    place = GGUFFile(path).infos["blk.0.ffn_up.weight"]
    content = bytearray(path.read_bytes())
    content[place.start + 18 : place.start + 20] = b"\x00\x7e"  # the scale of the second block: NaN in float16
    path.write_bytes(content)
    for kind in (None, "int4"):
        with pytest.warns(luthier.errors.Remark, match=r"NaN or infinite, in blocks\.0\.feed_forward\.up\.weight"):
            luthier.load(path, quantize=kind)
