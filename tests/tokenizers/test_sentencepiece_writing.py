"""The tokenizer.model of SentencePiece for Meta's programs, read by SentencePiece itself."""

from __future__ import annotations

import json

import pytest
import sentencepiece
from hostile_texts import HOSTILE, TEXT, any_text, property_test, sentencepiece_model
from hypothesis import given

from luthier.tokenizers.formats.sentencepiece_model import read_sentencepiece
from luthier.tokenizers.formats.sentencepiece_writing import sentencepiece_file
from luthier.tokenizers.load import load

PLAIN = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original")
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(model_type="bpe", **PLAIN))
    return folder


@pytest.fixture(scope="module")
def written(original):
    return sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_file(load(original)))


@given(any_text)
@property_test
def test_sentencepiece_gives_the_ids_of_the_tokenizer(original, written, text):
    assert written.encode(text) == sentencepiece.SentencePieceProcessor(str(original / "tokenizer.model")).encode(text)


def test_so_it_does_for_hostile_and_long_texts(original, written):
    tokenizer = load(original)
    for text in [*HOSTILE, TEXT]:
        assert written.encode(text) == tokenizer.encode(text)


def test_pieces_and_roles_are_those_of_the_original(original, written):
    first = sentencepiece.SentencePieceProcessor(str(original / "tokenizer.model"))
    assert len(written) == len(first)
    for number in range(len(first)):
        assert written.id_to_piece(number) == first.id_to_piece(number)
        for says in ("is_unknown", "is_control", "is_byte", "is_unused"):
            assert getattr(written, says)(number) == getattr(first, says)(number)
    roles = ("unk_id", "bos_id", "eos_id", "pad_id")
    assert [getattr(written, role)() for role in roles] == [getattr(first, role)() for role in roles]


def test_a_tokenizer_json_gives_the_same_file(original, tmp_path):
    tokenizer = load(original)
    tokenizer.save(tmp_path)
    assert sentencepiece_file(load(tmp_path)) == sentencepiece_file(tokenizer)


def test_the_file_is_read_as_the_same_tokenizer(original, tmp_path):
    tokenizer = read_sentencepiece(original / "tokenizer.model")
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_file(tokenizer))
    assert read_sentencepiece(tmp_path / "tokenizer.model").fingerprint == tokenizer.fingerprint


def test_the_form_of_transformers_is_written_too(original, tmp_path):
    """Llama 2's tokenizer.json as transformers converts it: one word is the whole text."""
    tokenizer = load(original)
    state = json.loads(tokenizer.backend.to_str())
    state["normalizer"] = {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ],
    }
    state["pre_tokenizer"] = None
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    processor = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_file(load(tmp_path)))
    assert all(processor.encode(text) == tokenizer.encode(text) for text in HOSTILE)


@pytest.mark.parametrize("kind", ["characters", "bpe", "gpt2", "llama3", "sentencepiece unigram"])
def test_other_tokenizers_have_none(kinds, kind):
    assert sentencepiece_file(kinds[kind]) is None


def test_a_tokenizer_that_changes_texts_otherwise_has_none(original, tmp_path):
    tokenizer = load(original)
    state = json.loads(tokenizer.backend.to_str())
    state["normalizer"]["normalizers"].insert(0, {"type": "Lowercase"})
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    assert sentencepiece_file(load(tmp_path)) is None
