from __future__ import annotations

import base64
import importlib.util
from pathlib import Path

import pytest
import tiktoken
from hostile_texts import HOSTILE, TEXT, any_text, property_test, tiktoken_file
from hypothesis import given
from hypothesis import strategies as st

from luthier.errors import LuthierError
from luthier.tokenizers.formats.tiktoken_model import FAMILIES, read_tiktoken
from luthier.tokenizers.load import load

# as Meta wrote them: an independent copy to compare with
PATTERNS = {
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "llama4": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
LANDMARKS = {  # place after the ranks: name
    "llama3": {
        0: "<|begin_of_text|>", 1: "<|end_of_text|>", 2: "<|reserved_special_token_0|>", 4: "<|finetune_right_pad_id|>",
        6: "<|start_header_id|>", 7: "<|end_header_id|>", 8: "<|eom_id|>", 9: "<|eot_id|>", 10: "<|python_tag|>",
        11: "<|image|>", 12: "<|reserved_special_token_2|>", 255: "<|reserved_special_token_245|>",
    },
    "llama4": {
        0: "<|begin_of_text|>", 1: "<|end_of_text|>", 2: "<|fim_prefix|>", 5: "<|header_start|>", 6: "<|header_end|>",
        7: "<|eom|>", 8: "<|eot|>", 9: "<|step|>", 16: "<|python_start|>", 18: "<|finetune_right_pad|>",
        79: "<|text_post_train_reserved_special_token_68|>", 80: "<|image_start|>", 90: "<|image|>", 92: "<|patch|>",
        1133: "<|vision_reserved_special_token_1047|>", 1142: "<|reasoning_thinking_start|>",
        1143: "<|reasoning_thinking_end|>", 1144: "<|reserved_special_token_0|>",
        2047: "<|reserved_special_token_903|>",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def references(few_ranks) -> dict[str, tiktoken.Encoding]:
    return {
        family: tiktoken.Encoding(family, pat_str=pattern, mergeable_ranks=few_ranks, special_tokens={})
        for family, pattern in PATTERNS.items()
    }


@pytest.mark.parametrize("family", FAMILIES)
@given(any_text)
@property_test
def test_ids_are_tiktokens(kinds, references, family, text):
    assert kinds[family].encode(text) == references[family].encode_ordinary(text)


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_of_hostile_and_of_long_texts_are_tiktokens(kinds, references, family):
    for text in [*HOSTILE, TEXT]:
        assert kinds[family].encode(text) == references[family].encode_ordinary(text)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_word_that_is_a_token_is_that_token_even_without_merges_to_it(tmp_path, family):
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"zqx": 256, b"bc": 257, b"ab": 258, b"abc": 259}
    tokenizer = read_tiktoken(tiktoken_file(tmp_path / "tokenizer.model", ranks), family)
    reference = tiktoken.Encoding(family, pat_str=PATTERNS[family], mergeable_ranks=ranks, special_tokens={})
    for text in ("zqx", "zqxzqx", "abc", "abcabc", "xabc"):
        assert tokenizer.encode(text) == reference.encode_ordinary(text)
    assert tokenizer.encode("zqx") == [256]


@pytest.mark.parametrize("family", FAMILIES)
def test_special_tokens_follow_the_ranks_in_metas_order(kinds, few_ranks, family):
    tokenizer, first = kinds[family], len(few_ranks)
    names = list(tokenizer.special_tokens)
    assert len(names) == {"llama3": 256, "llama4": 2048}[family]
    assert list(tokenizer.special_tokens.values()) == list(range(first, first + len(names)))
    assert {place: names[place] for place in LANDMARKS[family]} == LANDMARKS[family]
    assert tokenizer.vocab_size == first + len(names)
    by_name = {"llama3": ("<|eom_id|>", "<|eot_id|>"), "llama4": ("<|eom|>", "<|eot|>")}[family]
    assert tokenizer.eos_ids == (first + 1, *(tokenizer.special_tokens[name] for name in by_name))
    assert (tokenizer.bos_id, tokenizer.eos_id) == (first, first + 1)


def test_a_file_that_is_neither_familys_asks_which(tmp_path, few_ranks):
    path = tiktoken_file(tmp_path / "tokenizer.model", few_ranks)
    with pytest.raises(LuthierError, match=r"5,000 ranks, not 128,000 \(llama3\) or 200,000 \(llama4\)"):
        load(path)


BYTES = [base64.b64encode(bytes([byte])) + b" %d" % byte for byte in range(256)]


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([*BYTES, b"YWI= 256 7"], "line 257: not"),
        ([*BYTES, b"YW 256"], "line 257: not"),
        ([*BYTES, b"YWI= x"], "line 257: not"),
        ([*BYTES, b"YWI= 300"], "line 257: rank 300 is out of order"),
        ([*BYTES, b"YQ== 256"], "line 257: rank 256 is out of order or its token was there before"),
        (BYTES[:200], "no token for 56 of the 256 bytes"),
    ],
)
def test_a_broken_file_is_an_error_that_names_the_line(tmp_path, lines, complaint):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(LuthierError, match=complaint):
        read_tiktoken(path, "llama3")


@given(st.binary(max_size=60))
@property_test
def test_any_bytes_are_a_clear_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "tokenizer.model"
    path.write_bytes(data)
    with pytest.raises(LuthierError, match=r"tokenizer\.model"):
        load(path)


def metas_file(family: str) -> Path:
    spec = importlib.util.find_spec("llama_models")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("llama_models holds the real files; it is not installed")
    return Path(spec.submodule_search_locations[0]) / family / "tokenizer.model"


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_ids_of_metas_own_file_are_tiktokens(family):
    path = metas_file(family)
    ranks = {base64.b64decode(line.split()[0]): int(line.split()[1]) for line in path.read_bytes().splitlines()}
    reference = tiktoken.Encoding(family, pat_str=PATTERNS[family], mergeable_ranks=ranks, special_tokens={})
    tokenizer = load(path)
    words = [piece.decode() for piece in ranks if piece.isascii()]
    for text in [*HOSTILE, TEXT, *words[::50], " ".join(words[::7])]:
        assert tokenizer.encode(text) == reference.encode_ordinary(text)
