"""What a run's text was cleaned by, its prompts are cleaned by: here, in `transformers`, and out of a GGUF file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
from hostile_texts import HOSTILE, TEXT, property_test
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from luthier.tokenizers.core.cleaning import FORMS, Normalization, clean
from luthier.tokenizers.core.tokenizer import Tokenizer
from luthier.tokenizers.core.train import characters, train_bpe
from luthier.tokenizers.formats.gguf_vocabulary import from_gguf, to_gguf
from luthier.tokenizers.formats.sentencepiece_writing import sentencepiece_file
from luthier.tokenizers.load import load

UNCLEAN = [
    "\ufeffCafe\u0301\r\nau lait\r",  # a mark, line ends of Windows and of old Macs, an accent by itself
    "one\x0btwo\x0cthree\x85four\x1cfive",
    "\x00\ufeff\x07bell\x9f \ufeff mark within",
    "\r\ufeff",
    "ﬁ ½ ①",
]
any_text = st.text(st.characters(exclude_categories=["Cs"])) | st.text("a \n\r\x00\x0b\x0c\x85\x1f\ufeffe\u0301\u0338>")


@pytest.fixture(scope="module")
def cleaning_kinds(kinds: dict[str, Tokenizer]) -> dict[str, Tokenizer]:
    return {kind: tokenizer.with_cleaning("NFC") for kind, tokenizer in kinds.items()}


def test_the_forms_are_those_that_can_be_asked_for():
    assert set(FORMS) == set(get_args(Normalization))


def test_separators_become_line_ends_and_join_no_words():
    assert (
        clean("one\x0btwo\x0cthree\x85four\x1cfive\r\nsix\rseven", "NFC") == "one\ntwo\nthree\nfour\nfive\nsix\nseven"
    )
    assert clean("\ufeffCafe\u0301\x07\tau\u2028lait", "NFC") == "Café\tau\u2028lait"


@given(any_text, st.sampled_from(FORMS))
@property_test
def test_a_clean_text_is_clean(text, form):
    assert clean(clean(text, form), form) == clean(text, form)


@given(any_text)
@property_test
def test_a_text_has_the_ids_of_the_clean_text(text):
    for tokenizer in (CHARACTERS, BPE):
        assert tokenizer.encode(text) == PLAIN[tokenizer].encode(clean(text, "NFC"))
        assert tokenizer.encode_arrays([text])[0].tolist() == tokenizer.encode(text)
        # the backend, which `transformers` will use, says the same
        assert tokenizer.backend.encode(text, add_special_tokens=False).ids == tokenizer.encode(text)


def test_every_kind_cleans_by_every_form_and_keeps_its_own_rules(kinds):
    for kind, tokenizer in kinds.items():
        for form in FORMS:
            cleaning = tokenizer.with_cleaning(form)
            for text in UNCLEAN + HOSTILE:
                wanted = tokenizer.encode(clean(text, form))
                assert cleaning.encode(text) == wanted, (kind, form, text)
                assert cleaning.encode_arrays([text])[0].tolist() == wanted, (kind, form, text)


def test_transformers_cleans_by_the_file_alone(cleaning_kinds, tmp_path: Path):
    for kind, tokenizer in cleaning_kinds.items():
        tokenizer.save(tmp_path / kind)
        theirs = AutoTokenizer.from_pretrained(tmp_path / kind)
        for text in UNCLEAN:
            assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text), (kind, text)
        assert load(tmp_path / kind).fingerprint == tokenizer.fingerprint


def test_special_tokens_part_what_is_cleaned():
    end = BPE.special_tokens["<|endoftext|>"]
    assert BPE.encode("\ufeffa<|endoftext|>\ufeff\u0338b\r\n", special=True) == [
        *BPE.encode("a"), end, *BPE.encode("\u0338b\n"),
    ]  # fmt: skip


def test_a_gguf_file_keeps_it():
    for tokenizer in (CHARACTERS, BPE):
        again = from_gguf(to_gguf(tokenizer, tokenizer.vocab_size))
        for text in UNCLEAN:
            assert again.encode(text) == tokenizer.encode(text)
    fields = to_gguf(BPE, BPE.vocab_size)
    with pytest.raises(Exception, match="cleaning is 'NFX'; known are none, NFC, NFKC"):
        from_gguf(fields | {"tokenizer.luthier.cleaning": "NFX"})


def test_metas_file_is_written_for_the_clean_texts(cleaning_kinds, kinds):
    for kind in ("sentencepiece bpe",):
        assert sentencepiece_file(cleaning_kinds[kind]) == sentencepiece_file(kinds[kind]) is not None


def test_of_two_cleanings_the_one_that_does_more_stays():
    compatible = BPE.with_cleaning("NFKC")
    assert compatible.encode("ﬁ") == BPE.encode("fi")
    assert compatible.with_cleaning("NFC") is compatible
    assert BPE.with_cleaning("none") is BPE
    steps = json.loads(compatible.to_json())["normalizer"]["normalizers"]
    assert [step["type"] for step in steps] == ["Replace", "Replace", "Replace", "NFKC"]


PLAIN_CHARACTERS = characters([TEXT], byte_fallback=True)
PLAIN_BPE = train_bpe([TEXT], 600)
CHARACTERS, BPE = PLAIN_CHARACTERS.with_cleaning("NFC"), PLAIN_BPE.with_cleaning("NFC")
PLAIN = {CHARACTERS: PLAIN_CHARACTERS, BPE: PLAIN_BPE}
