from __future__ import annotations

import contextlib
import time
from functools import cache
from pathlib import Path

import pytest
import sentencepiece
from hostile_texts import FRENCH, HOSTILE, TEXT, any_text, property_test, sentencepiece_model, with_runs_of_spaces
from hypothesis import given
from hypothesis import strategies as st

from luthier.errors import LuthierError
from luthier.tokenizers.core.tokenizer import Tokenizer
from luthier.tokenizers.load import load

LLAMA2 = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True}
MODELS = {
    "bpe as in Llama 2": {"model_type": "bpe", **LLAMA2},
    "unigram with bytes": {"model_type": "unigram", **LLAMA2},
    "bpe by default": {"model_type": "bpe"},
    "unigram by default": {"model_type": "unigram"},
    "no space at the beginning": {"model_type": "bpe", **LLAMA2, "add_dummy_prefix": False},
    "pieces over spaces": {"model_type": "bpe", **LLAMA2, "split_by_whitespace": False},
    "own pieces, bpe": {"model_type": "bpe", **LLAMA2, "user_defined_symbols": ["<sep>", "aa", "▁▁"]},
    "own pieces, unigram": {"model_type": "unigram", **LLAMA2, "user_defined_symbols": ["<sep>", "[CLS]"]},
    "characters": {"model_type": "char", **LLAMA2, "vocab_size": 450},
    "other special tokens": {
        "model_type": "bpe",
        **LLAMA2,
        "pad_id": 3,
        "bos_piece": "[B]",
        "control_symbols": ["[X]"],
    },
}
each_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory):
    """Our reading of a model and SentencePiece's own, by name, made when first asked for."""

    @cache
    def make(name: str) -> tuple[Tokenizer, sentencepiece.SentencePieceProcessor]:
        path = tmp_path_factory.mktemp("models") / "tokenizer.model"
        path.write_bytes(sentencepiece_model(**MODELS[name]))
        return load(path), sentencepiece.SentencePieceProcessor(model_file=str(path))

    return make


@each_model
@given(st.one_of(any_text, st.text("ab<sep>▁ \n", max_size=20)))
@property_test
def test_ids_are_sentencepieces(models, name, text):
    ours, theirs = models(name)
    assert ours.encode(text) == theirs.encode(text)


@each_model
def test_ids_of_hostile_and_of_long_texts_are_sentencepieces(models, name):
    ours, theirs = models(name)
    texts = [
        *HOSTILE,
        *FRENCH.split(),
        TEXT[:20_000],
        "<sep>aaa<sep> [CLS]aa▁▁▁a",
        "[X]<s>[B]<pad>",
        "\x01",
        " \x01 ",
        "e\x01\u0301",
    ]
    assert ours.encode_batch(texts) == theirs.encode(texts)


@each_model
def test_decoding_is_sentencepieces_where_all_is_known(models, name):
    ours, theirs = models(name)
    for text in (FRENCH, "  two  spaces ", " a", "a", "", TEXT[:2000]):
        assert ours.decode(theirs.encode(text)) == theirs.decode(theirs.encode(text))


@each_model
def test_every_token_and_role_is_sentencepieces(models, name):
    ours, theirs = models(name)
    assert ours.vocab_size == theirs.vocab_size()
    roles = (theirs.bos_id(), theirs.eos_id(), theirs.pad_id(), theirs.unk_id())
    assert [ours.bos_id, ours.eos_id, ours.pad_id, ours.unk_id] == [None if role < 0 else role for role in roles]
    special = {theirs.id_to_piece(i): i for i in range(ours.vocab_size) if theirs.is_control(i) or theirs.is_unknown(i)}
    assert ours.special_tokens == special


def test_a_long_text_is_read_word_by_word(models):
    ours, theirs = models("bpe as in Llama 2")
    began = time.process_time()
    assert ours.encode(TEXT * 8) == theirs.encode(TEXT * 8)
    assert time.process_time() - began < 10


def test_runs_of_spaces_that_are_all_as_likely_are_sentencepieces(tmp_path):
    model = sentencepiece_model(model_type="bpe", allow_whitespace_only_pieces=True, **LLAMA2)
    path = tmp_path / "tokenizer.model"
    path.write_bytes(with_runs_of_spaces(model, 16))
    ours, theirs = load(path), sentencepiece.SentencePieceProcessor(model_file=str(path))
    texts = [
        f"{before}{' ' * length}{after}" for length in range(70) for before in ("", "a\n") for after in ("", "b", "\n")
    ]
    assert ours.encode_batch(texts) == theirs.encode(texts)
    assert theirs.id_to_piece(theirs.encode(" " * 19)) == ["▁" * 16, "▁" * 4]


NMT_NFKC = [
    "\u00a0\u0301",
    "ﬃ\u0323",
    "İ\u0323",
    "\u0344",
    "か\u3099ｶﾞ",
    "각\u11a8",
    "\u1100\u1161\u11a8",
    "～",
    "㋿",
    "\u0b4b",
]


@given(st.text(st.characters(categories=["Mn", "Mc", "Ll", "Lo", "Nl", "Cc", "Cf", "Zs"], min_codepoint=1), max_size=8))
@property_test
def test_normalized_text_is_sentencepieces(models, text):
    ours, theirs = models("unigram by default")
    for hostile in (text, "".join(NMT_NFKC) + text):
        assert ours.encode(hostile) == theirs.encode(hostile)


def test_hostile_marks_alone_are_sentencepieces(models):
    ours, theirs = models("unigram by default")
    texts = [*NMT_NFKC, *(f"a{text}b" for text in NMT_NFKC), *(2 * text for text in NMT_NFKC)]
    assert ours.encode_batch(texts) == theirs.encode(texts)


def test_what_tokenizer_json_cannot_say_is_refused(tmp_path):
    path = tmp_path / "tokenizer.model"
    for options, complaint in (
        ({"model_type": "word"}, "whole words"),
        ({"treat_whitespace_as_suffix": True}, "writes spaces otherwise"),
        ({"normalization_rule_name": "nmt_nfkc_cf"}, "far from NFKC"),
    ):
        path.write_bytes(sentencepiece_model(**options))
        with pytest.raises(LuthierError, match=complaint):
            load(path)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    return tmp_path_factory.mktemp("broken") / "tokenizer.model", sentencepiece_model(model_type="bpe", **LLAMA2)


@given(st.data())
@property_test
def test_a_broken_file_is_a_clear_error_or_a_tokenizer(small, data):
    path, model = small
    cut = data.draw(st.integers(1, len(model) - 1))
    flipped = data.draw(st.integers(0, len(model) - 1))
    for broken in (model[:cut], model[:flipped] + bytes([model[flipped] ^ 0x55]) + model[flipped + 1 :]):
        path.write_bytes(broken)
        with contextlib.suppress(LuthierError):  # and nothing else, a panic of the backend least of all
            load(path).encode("Hello")


@pytest.mark.parametrize("name", ["bpe as in Llama 2", "unigram with bytes", "no space at the beginning"])
@given(st.data())
@property_test
def test_bytes_that_are_no_text_are_decoded_as_sentencepiece_does(models, name, data):
    ours, theirs = models(name)
    byte = [theirs.piece_to_id(f"<0x{number:02X}>") for number in range(256)]
    some = st.sampled_from([*byte, *map(byte.__getitem__, " é".encode()), *theirs.encode("the a")])
    for ids in ([byte[0xE1], byte[0x92]], [byte[0x20]], data.draw(st.lists(some, max_size=12))):
        text = theirs.decode(ids)
        assert ours.decode(ids) == text
        stream = ours.stream()
        assert "".join(map(stream.push, ids)) + stream.flush() == text
