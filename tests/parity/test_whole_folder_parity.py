"""A model with its tokenizer: transformers opens the folder, reads the same ids and writes the same text."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from peers import randomize
from tokenizers import Tokenizer as Backend
from tokenizers.decoders import Fuse
from tokenizers.models import BPE

import luthier
from luthier.architectures import gpt2, llama, llama4, registry
from luthier.errors import LuthierError
from luthier.language_model import LanguageModel
from luthier.tokenizers.core.tokenizer import Tokenizer

VOCABULARY = ["<|begin|>", "<|end|>", "<|turn|>", *"abcdefghijklmnopqrstuvwxyz .,"]
SIZE = len(VOCABULARY)
CONFIGS = [
    gpt2.Config(SIZE, 64, 24, 2, 3),
    llama.Config(SIZE, 64, 32, 48, 2, 4, 2, tie_embeddings=True),
    llama4.Config(SIZE, 64, 32, 24, 48, 4, 4, 2, n_experts=4, moe_every=2, attention_chunk=8, temperature_floor=4),
]


def tokenizer() -> Tokenizer:
    backend = Backend(BPE({token: number for number, token in enumerate(VOCABULARY)}, []))
    backend.decoder = Fuse()
    backend.add_special_tokens(VOCABULARY[:3])
    return Tokenizer(backend, bos="<|begin|>", eos="<|end|>", eos_ids=(1, 2))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: registry.name_of(config))
def test_transformers_goes_on_with_the_same_text(config, tmp_path):
    model = randomize(registry.build(config))
    LanguageModel(model, tokenizer(), config).save(tmp_path)
    lm = luthier.load(tmp_path)
    assert lm.tokenizer.eos_ids == (1, 2)
    assert (lm.tokenizer.bos_id, lm.tokenizer.pad_id) == (0, None)
    peer = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    prompt = "a model speaks, "
    ids = their_tokenizer(prompt, return_tensors="pt").input_ids
    assert ids[0].tolist() == lm.tokenizer.encode(prompt)
    mask = torch.ones_like(ids)
    written = peer.generate(ids, attention_mask=mask, max_new_tokens=24, do_sample=False, pad_token_id=0)
    text = their_tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
    assert lm.generate([prompt], max_new_tokens=24, temperature=0) == [text]
    assert "".join(lm.stream(prompt, max_new_tokens=24, temperature=0)) == text
    assert peer.generation_config.eos_token_id == [1, 2]


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path):
    config = llama.Config(SIZE - 1, 64, 32, 48, 2, 4, 2)
    LanguageModel(registry.build(config), None, config).save(tmp_path)
    tokenizer().save(tmp_path)
    with pytest.raises(LuthierError, match=f"the tokenizer has {SIZE} tokens, the model has {SIZE - 1}"):
        luthier.load(tmp_path)


def test_a_new_tokenizer_takes_the_place_of_the_old_one_and_of_its_template(tmp_path):
    (tmp_path / "chat_template.jinja").write_text("of another model")
    config = CONFIGS[1]
    LanguageModel(registry.build(config), tokenizer(), config).save(tmp_path)
    assert luthier.load(tmp_path).tokenizer.chat_template is None
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["eos_token"] == "<|end|>"
