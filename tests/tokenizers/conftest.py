"""Tokenizers of every kind, made once."""

from __future__ import annotations

import pytest
from hostile_texts import TEXT, sentencepiece_model, tiktoken_file

from luthier.tokenizers.core.tokenizer import Tokenizer
from luthier.tokenizers.core.train import characters, train_bpe
from luthier.tokenizers.formats.gpt2 import gpt2
from luthier.tokenizers.formats.tiktoken_model import read_tiktoken
from luthier.tokenizers.load import load


@pytest.fixture(scope="session")
def gpt2_tokenizer() -> Tokenizer:
    return gpt2()


@pytest.fixture(scope="session")
def few_ranks(gpt2_tokenizer: Tokenizer) -> dict[bytes, int]:
    """GPT-2's first 5,000 tokens: enough ranks for a tokenizer of Meta's kind."""
    return {gpt2_tokenizer.piece(rank): rank for rank in range(5000)}


@pytest.fixture(scope="session")
def kinds(
    gpt2_tokenizer: Tokenizer, few_ranks: dict[bytes, int], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Tokenizer]:
    """A tokenizer of each kind that writes any text."""
    folder = tmp_path_factory.mktemp("kinds")
    file = tiktoken_file(folder / "tiktoken.model", few_ranks)
    made = {
        "characters": characters([TEXT], byte_fallback=True),
        "bpe": train_bpe([TEXT], 600),
        "gpt2": gpt2_tokenizer,
        "llama3": read_tiktoken(file, "llama3"),
        "llama4": read_tiktoken(file, "llama4"),
    }
    plain = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True}
    for kind in ("bpe", "unigram"):
        path = folder / f"{kind}.model"
        path.write_bytes(sentencepiece_model(model_type=kind, **plain))
        made[f"sentencepiece {kind}"] = load(path)
    return made
