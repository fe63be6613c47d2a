from __future__ import annotations

import json

import pytest
from hostile_texts import HOSTILE, TEXT, any_text, property_test
from hypothesis import given
from transformers import AutoTokenizer

from luthier.tokenizers.core.train import characters, train_bpe
from luthier.tokenizers.formats.sentencepiece_writing import sentencepiece_file
from luthier.tokenizers.load import load

KINDS = ["characters", "bpe", "gpt2", "llama3", "llama4", "sentencepiece bpe", "sentencepiece unigram"]


@pytest.fixture(scope="module")
def peers(kinds, tmp_path_factory):
    """What `transformers` makes of each kind as saved here, beside a model's config.json."""
    models = ["gpt2", "llama", "gpt2", "llama", "llama4_text", "llama", "llama4"]
    loaded = {}
    for kind, model in zip(KINDS, models, strict=True):
        folder = tmp_path_factory.mktemp("saved")
        kinds[kind].save(folder)
        (folder / "config.json").write_text(json.dumps({"model_type": model}))
        loaded[kind] = AutoTokenizer.from_pretrained(folder)
    return loaded


@pytest.mark.parametrize("kind", KINDS)
@given(any_text)
@property_test
def test_ids_and_text_are_transformers(kinds, peers, kind, text):
    ours, theirs = kinds[kind], peers[kind]
    assert theirs(text, split_special_tokens=True)["input_ids"] == ours.encode(text)
    ids = ours.encode(text, special=True)
    assert theirs(text)["input_ids"] == ids
    assert theirs.decode(ids) == ours.decode(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_texts_and_the_vocabulary_are_transformers(kinds, peers, kind):
    ours, theirs = kinds[kind], peers[kind]
    assert theirs(HOSTILE)["input_ids"] == ours.encode_batch(HOSTILE, special=True)
    assert len(theirs) == ours.vocab_size
    roles = (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id, theirs.unk_token_id)
    assert roles == (ours.bos_id, ours.eos_id, ours.pad_id, ours.unk_id)
    assert set(theirs(["a"])) == {"input_ids", "attention_mask"}  # a third one would stop Llama's forward


def test_a_chat_template_is_kept(tmp_path):
    tokenizer = train_bpe([TEXT], 300)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    ids = theirs.apply_chat_template([{"role": "user", "content": "Hello"}], return_dict=False)
    assert ids == tokenizer.encode("Hello", eos=True)
    assert load(tmp_path).chat_template == tokenizer.chat_template


def test_the_begin_token_of_metas_models_is_put_there_by_transformers_too(kinds, tmp_path):
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "tokenizer.model").write_bytes(sentencepiece_file(kinds["sentencepiece bpe"]))
    assert not load(tmp_path / "meta").adds_bos
    (tmp_path / "meta" / "params.json").write_text("{}")
    tokenizer = load(tmp_path / "meta")
    assert tokenizer.adds_bos
    tokenizer.save(tmp_path / "ours")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert theirs("Hello")["input_ids"] == tokenizer.encode("Hello", bos=True)
    assert load(tmp_path / "ours").adds_bos


def test_plain_characters(tmp_path):
    tokenizer = characters(["Hello world\n"])
    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    text = "old Hello\n\nword"
    assert theirs(text)["input_ids"] == tokenizer.encode(text)
    assert theirs.decode(tokenizer.encode(text)) == text == load(tmp_path).decode(tokenizer.encode(text))


@pytest.mark.parametrize("kind", ["characters", "sentencepiece bpe", "sentencepiece unigram"])
def test_bytes_that_are_no_text_are_decoded_as_transformers_does(kinds, peers, kind):
    """But for a run of bytes that is a text in part: transformers gives that up whole, SentencePiece and we do not."""
    ours, theirs = kinds[kind], peers[kind]
    byte = [ours.backend.token_to_id(f"<0x{number:02X}>") for number in range(256)]
    word = ours.encode("the")
    for some in (b"\xe1\x92", b" ", b"\xff", "é".encode(), b"\xed\xa0\x80", b"\xf0\x9f\x91", b"  "):
        ids = [byte[number] for number in some]
        for each in (ids, ids + word, word + ids, word + ids + word):
            assert ours.decode(each) == theirs.decode(each)
