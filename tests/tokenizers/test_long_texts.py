"""Encoding by looking words up gives the ids of the backend, whatever the text."""

from __future__ import annotations

import numpy as np
import pytest
from hostile_texts import HOSTILE, TEXT, any_text, property_test, sentencepiece_model
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE
from tokenizers.normalizers import NFKC, Prepend, Replace, Sequence
from tokenizers.pre_tokenizers import ByteLevel, Digits, Split, Whitespace
from tokenizers.pre_tokenizers import Sequence as Steps

from luthier.errors import LuthierError
from luthier.tokenizers.core.tokenizer import Tokenizer
from luthier.tokenizers.formats import gguf_words
from luthier.tokenizers.load import load
from luthier.tokenizers.words import word_ids, word_patterns
from luthier.tokenizers.words.word_patterns import words_of

WAYS = ["gpt-2", "llama-bpe", "llama4", "qwen2", "smollm", "tekken"]
BY_WORDS = ["bpe", "gpt2", "llama3", "llama4", "sentencepiece bpe", *WAYS]
OTHERS = ["characters", "sentencepiece unigram", "default"]
FIRST_PLANE = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x10000)]))
OTHER_PLANES = "".join(map(chr, [*range(0x10000, 0x40000), *range(0xE0000, 0xE1000)]))

# what words begin and end with, in every order
mixed_text = st.lists(
    st.sampled_from(
        [*"aZé1٣²中😀𝟙\U00020000'ſ \n\r\t\u00a0\u0301_.!/", "'s", "'LL", "  ", "ǅ", "ʰ", "\U000e0101", "\0"]
    ),
    max_size=25,
).map("".join)


@pytest.fixture(scope="session")
def all_kinds(kinds, gpt2_tokenizer) -> dict[str, Tokenizer]:
    """Tokenizers of every kind, and with GPT-2's vocabulary every way to part words that is known by a name."""
    made = dict(kinds)
    for name in (*WAYS, "default"):
        words = gguf_words.words_of(name)
        made[name] = Tokenizer(backend_of(gpt2_tokenizer, words.pre_tokenizer, words.normalizer))
    return made


@pytest.fixture(scope="module", autouse=True)
def _all_planes_at_once():
    """Texts with characters beyond the first plane are looked up from the first one on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(word_patterns, "RARE", 0)
        yield


@pytest.mark.parametrize("name", gguf_words.GROUPS)
def test_every_way_of_llama_cpps_gives_the_backends_ids(gpt2_tokenizer, name):
    words = gguf_words.words_of(name)
    tokenizer = Tokenizer(backend_of(gpt2_tokenizer, words.pre_tokenizer, words.normalizer))
    arrays = tokenizer.encode_arrays(HOSTILE)
    assert [array.tolist() for array in arrays] == tokenizer.encode_batch(HOSTILE)


def backend_of(tokenizer, pre_tokenizer, normalizer=None) -> Backend:
    backend = Backend(tokenizer.backend.model)
    backend.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        backend.normalizer = normalizer
    return backend


def same(tokenizer: Tokenizer, texts: list[str]) -> bool:
    return [row.tolist() for row in tokenizer.encode_arrays(texts)] == tokenizer.encode_batch(texts)


@pytest.mark.parametrize("kind", BY_WORDS)
def test_published_ways_to_part_words_are_known(all_kinds, kind):
    assert all_kinds[kind].encodes_words


@pytest.mark.parametrize("kind", [*BY_WORDS, *OTHERS])
@given(st.one_of(any_text, mixed_text))
@property_test
def test_ids_are_the_backends(all_kinds, kind, text):
    assert same(all_kinds[kind], [text, text + "\U000f0000"])


@pytest.mark.parametrize("kind", [*BY_WORDS, *OTHERS])
def test_ids_of_hostile_and_of_long_texts_are_the_backends(all_kinds, kind):
    assert same(all_kinds[kind], [*HOSTILE, TEXT, TEXT + "\n" + TEXT[:1000]])


@pytest.mark.parametrize("kind", ["gpt2", "llama3", "llama4", "smollm"])
@pytest.mark.parametrize("between", [" '", "a"])
def test_every_character_of_the_first_plane_is_of_the_class_that_the_backend_has_it_in(all_kinds, kind, between):
    parts_alike(all_kinds[kind], between.join(FIRST_PLANE))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "llama4", "smollm"])
def test_every_character_of_the_other_planes_is_of_the_class_that_the_backend_has_it_in(all_kinds, kind):
    parts_alike(all_kinds[kind], " '".join(OTHER_PLANES))


def parts_alike(tokenizer: Tokenizer, text: str) -> None:
    words = words_of(tokenizer.backend)
    assert words is not None
    places = [place for _, place in tokenizer.backend.pre_tokenizer.pre_tokenize_str(text)]
    assert words.of(text) == [text[start:end] for start, end in places]


@pytest.mark.parametrize(
    "pre_tokenizer",
    [
        None,
        Whitespace(),
        ByteLevel(add_prefix_space=True),
        Split(Regex(r"\w+"), "isolated"),
        Split(Regex(r"(a)\1"), "isolated"),
        Split(Regex(r"."), "isolated"),
        Split(Regex(r"[a[b]]|[^ab]"), "isolated"),
        Split(Regex(r"[a-z&&[^b]]|[\s\S]"), "isolated"),
        Split(Regex(r"<digits>+|[^<digits>]+"), "isolated"),
        Split(Regex(r"\p{L}{1,2}+|[\s\S]"), "isolated"),
        Split(Regex(r"\s+"), "merged_with_next"),
        Split(" ", "isolated"),
        Steps([ByteLevel(add_prefix_space=False), Whitespace()]),
    ],
)
@given(mixed_text)
@property_test
def test_what_is_not_known_is_left_to_the_backend(kinds, pre_tokenizer, text):
    backend = Backend(kinds["bpe"].backend.model)
    if pre_tokenizer is not None:
        backend.pre_tokenizer = pre_tokenizer
    assert words_of(backend) is None
    assert same(Tokenizer(backend), [text])


@pytest.mark.parametrize(
    "pre_tokenizer",
    [
        Split(Regex(r"\p{Lu}+|\P{L}|\s?\p{Ll}*"), "isolated"),
        Split(Regex(r"\S+"), "removed", invert=True),
        Split(Regex(r"\s+"), "isolated"),
        Split(Regex(r"(?<=\s)\S|(?<!a)\p{N}{2}|[^\S\x{A0}]+?|[\s\S]"), "isolated"),
        Digits(individual_digits=False),
        Steps([Digits(individual_digits=True), Split(Regex(r" ?\p{L}++| ?+[^\s\p{L}]|\s"), "isolated")]),
    ],
)
@given(mixed_text)
@property_test
def test_patterns_of_ones_own_give_the_backends_ids(kinds, pre_tokenizer, text):
    assert same(Tokenizer(backend_of(kinds["bpe"], pre_tokenizer)), [text])


@pytest.mark.parametrize("normalizer", [NFKC(), Prepend("_"), Sequence([Prepend(" "), Replace(" ", "▁"), NFKC()])])
@given(mixed_text)
@property_test
def test_a_normalizer_is_followed(kinds, normalizer, text):
    pre_tokenizer = ByteLevel(add_prefix_space=False)
    assert same(Tokenizer(backend_of(kinds["bpe"], pre_tokenizer, normalizer)), [text, ""])


@pytest.mark.parametrize("flags", [{}, {"lstrip": True}, {"single_word": True}, {"normalized": True}])
def test_tokens_that_are_found_in_a_text_first_stay_so(kinds, flags):
    backend = backend_of(kinds["bpe"], ByteLevel(add_prefix_space=False))
    backend.add_tokens([AddedToken("New York", **{"normalized": False, **flags})])
    tokenizer = Tokenizer(backend)
    texts = ["I love New York.", "I love new york", "New Yorkers", TEXT[:3000]]
    assert same(tokenizer, texts)
    assert tokenizer.vocab_size - 1 in tokenizer.encode_arrays(texts)[0]


def test_special_tokens_in_a_text_are_plain_text(gpt2_tokenizer):
    [ids] = gpt2_tokenizer.encode_arrays(["a<|endoftext|>b"])
    assert ids.tolist() == gpt2_tokenizer.encode("a<|endoftext|>b")
    assert gpt2_tokenizer.eos_id not in ids


def test_a_model_that_draws_is_asked_for_every_word():
    letters = {letter: number for number, letter in enumerate("abc")} | {"ab": 3, "abc": 4}
    backend = Backend(BPE(letters, [("a", "b"), ("ab", "c")], dropout=0.5))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer = Tokenizer(backend)
    assert not tokenizer.encodes_words
    assert len({tuple(tokenizer.encode_arrays(["abc"])[0].tolist()) for _ in range(60)}) > 1


def test_words_that_do_not_fit_in_memory_are_encoded_anew(kinds, monkeypatch):
    monkeypatch.setattr(word_ids, "MOST_WORDS", 5)
    monkeypatch.setattr(word_ids, "LONGEST_WORD", 6)
    tokenizer = Tokenizer(kinds["bpe"].backend)
    assert same(tokenizer, [TEXT[:20_000], TEXT[-3000:]])
    kept = tokenizer._long_texts._ids
    assert len(kept) <= 5
    assert max(map(len, kept)) <= 6


def test_ids_come_as_arrays(kinds):
    for tokenizer in kinds.values():
        for ids in tokenizer.encode_arrays(["ab c", ""]):
            assert ids.dtype == np.uint32
            assert ids.ndim == 1
        assert tokenizer.encode_arrays([]) == []


def test_half_a_surrogate_pair_is_an_error_that_says_where(kinds):
    for tokenizer in kinds.values():
        with pytest.raises(LuthierError, match=r"character 2 .* U\+D83D, half of a surrogate pair"):
            tokenizer.encode_arrays(["fine", "ab\ud83d"])


@pytest.mark.slow
def test_sentencepiece_with_its_own_rules_of_normalizing(tmp_path):
    (tmp_path / "nfkc.model").write_bytes(sentencepiece_model(model_type="bpe", byte_fallback=True))
    tokenizer = load(tmp_path / "nfkc.model")
    assert tokenizer.encodes_words
    assert same(tokenizer, [*HOSTILE, TEXT[:5000]])


def test_a_few_texts_beyond_the_first_plane_are_left_to_the_backend(kinds, monkeypatch):
    monkeypatch.setattr(word_patterns, "RARE", 100)
    tokenizer = Tokenizer(kinds["bpe"].backend)
    words = words_of(tokenizer.backend)
    assert [words.of("😀 ab" * 10) is None for _ in range(4)] == [True, True, False, False]
    assert same(tokenizer, ["😀 ab" * 10] * 4)
