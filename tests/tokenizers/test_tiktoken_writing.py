"""The tokenizer.model for Meta's programs."""

from __future__ import annotations

import pytest
from hostile_texts import HOSTILE

from luthier.tokenizers.formats.tiktoken_model import FAMILIES, read_tiktoken
from luthier.tokenizers.formats.tiktoken_writing import tiktoken_file
from luthier.tokenizers.load import load


@pytest.mark.parametrize("family", FAMILIES)
def test_the_file_gives_the_same_tokenizer(kinds, few_ranks, family, tmp_path):
    content = tiktoken_file(kinds[family])
    (tmp_path / "tokenizer.model").write_bytes(content)
    again = read_tiktoken(tmp_path / "tokenizer.model", family)
    assert again.fingerprint == kinds[family].fingerprint
    assert again.eos_ids == kinds[family].eos_ids


@pytest.mark.parametrize("family", FAMILIES)
def test_so_does_that_of_a_tokenizer_json(kinds, family, tmp_path):
    kinds[family].save(tmp_path)
    assert tiktoken_file(load(tmp_path)) == tiktoken_file(kinds[family])


@pytest.mark.parametrize("kind", ["characters", "bpe", "gpt2", "sentencepiece bpe", "sentencepiece unigram"])
def test_other_tokenizers_have_none(kinds, kind):
    assert tiktoken_file(kinds[kind]) is None


def test_a_tokenizer_json_in_a_folder_of_metas_says_its_own_rule(kinds, tmp_path):
    """A tokenizer.model there means that texts begin with a token; a tokenizer.json may say otherwise."""
    (tmp_path / "params.json").write_text("{}")
    kinds["llama3"].save(tmp_path)
    assert not kinds["llama3"].adds_bos
    again = load(tmp_path)
    assert not again.adds_bos
    assert all(again.encode(text) == kinds["llama3"].encode(text) for text in HOSTILE)
