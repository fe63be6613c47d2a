from __future__ import annotations

import threading
import time

import pytest
from hostile_texts import HOSTILE, any_text, property_test
from hypothesis import given
from hypothesis import strategies as st

from luthier.errors import LuthierError
from luthier.tokenizers.core.tokenizer import Tokenizer
from luthier.tokenizers.core.train import characters

KINDS = ["characters", "bpe", "gpt2", "llama3", "llama4", "sentencepiece bpe", "sentencepiece unigram"]
each_kind = pytest.mark.parametrize("kind", KINDS)


def as_kept(kind: str, text: str) -> str:
    """SentencePiece's own sign for a space is the one character that it cannot tell from a space."""
    return text.replace("▁", " ") if kind.startswith("sentencepiece") else text


@each_kind
@given(any_text)
@property_test
def test_any_text_survives(kinds, kind, text):
    ids = kinds[kind].encode(text)
    assert kinds[kind].decode(ids) == as_kept(kind, text)
    assert all(type(number) is int and 0 <= number < kinds[kind].vocab_size for number in ids)


@each_kind
def test_hostile_texts_survive(kinds, kind):
    for text, ids in zip(HOSTILE, kinds[kind].encode_batch(HOSTILE), strict=True):
        assert kinds[kind].decode(ids) == as_kept(kind, text)
        assert ids == kinds[kind].encode(text)


@each_kind
@given(any_text)
@property_test
def test_special_tokens_in_a_text_are_plain_text(kinds, kind, text):
    special = set(kinds[kind].special_tokens.values())
    for hostile in (text, "".join(kinds[kind].special_tokens)[:200] + text):
        assert not special.intersection(kinds[kind].encode(hostile))


@each_kind
def test_special_tokens_are_read_as_such_when_asked_for(kinds, kind):
    tokenizer = kinds[kind]
    end = next(text for text, number in tokenizer.special_tokens.items() if number == tokenizer.eos_id)
    ids = tokenizer.encode(f"a{end}b", special=True)
    assert ids.count(tokenizer.eos_id) == 1
    assert tokenizer.decode(ids, skip_special=True).replace(" ", "") == "ab"
    assert end in tokenizer.decode(ids)
    assert tokenizer.eos_id not in tokenizer.encode(f"a{end}b")


@each_kind
def test_begin_and_end_tokens_are_put_where_there_are_any(kinds, kind):
    tokenizer = kinds[kind]
    plain = tokenizer.encode("ab")
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    assert tokenizer.encode("ab", bos=True, eos=True) == [*begin, *plain, tokenizer.eos_id]
    assert tokenizer.encode("", bos=True) == begin
    assert tokenizer.eos_id in tokenizer.eos_ids


@each_kind
@given(st.data())
@property_test
def test_a_stream_gives_what_decoding_gives(kinds, kind, data):
    tokenizer = kinds[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30))
    stream = tokenizer.stream()
    assert "".join(map(stream.push, ids)) + stream.flush() == tokenizer.decode(ids)


@each_kind
@given(any_text)
@property_test
def test_a_stream_of_a_text_never_breaks_a_character(kinds, kind, text):
    tokenizer = kinds[kind]
    stream = tokenizer.stream()
    parts = [stream.push(number) for number in tokenizer.encode(text)]
    assert "".join(parts) == as_kept(kind, text)
    assert stream.flush() == ""


def test_a_character_comes_once_its_last_byte_is_there(kinds):
    tokenizer = kinds["characters"]
    stream = tokenizer.stream()
    ids = tokenizer.encode("🏽")
    assert [stream.push(number) for number in ids] == ["", "", "", "🏽"]
    assert [stream.push(number) for number in ids[:2]] == ["", ""]
    assert stream.flush() == 2 * "\N{REPLACEMENT CHARACTER}"  # one for each byte, as SentencePiece has it
    assert stream.push(tokenizer.encode("a")[0]) == "a"


def test_only_the_space_at_the_beginning_of_a_stream_goes(kinds):
    tokenizer = kinds["sentencepiece bpe"]
    word = tokenizer.encode("the")
    stream = tokenizer.stream()
    assert "".join(map(stream.push, word)) == "the"
    assert stream.flush() == ""  # the prompt ends here; what follows is not the beginning of a text
    assert "".join(map(stream.push, word)) == " the"


@each_kind
@given(any_text)
@property_test
def test_pieces_are_the_bytes_of_the_text(kinds, kind, text):
    tokenizer = kinds[kind]
    written = b"".join(map(tokenizer.piece, tokenizer.encode(text)))
    assert written.decode().removeprefix(" " if tokenizer.pieces.drops_space else "") == as_kept(kind, text)


@each_kind
def test_half_a_surrogate_pair_is_an_error_that_says_where(kinds, kind):
    with pytest.raises(LuthierError, match=r"character 2 .* U\+D83D, half of a surrogate pair"):
        kinds[kind].encode("ab\ud83d")
    with pytest.raises(LuthierError, match=r"U\+DC41"):
        kinds[kind].encode_batch(["fine", "\udc41"])
    with pytest.raises(TypeError, match="must be a str, not bytes"):
        kinds[kind].encode(b"ab")


def test_a_plain_character_tokenizer_refuses_half_a_surrogate_pair_too():
    with pytest.raises(LuthierError, match=r"U\+D83D, half of a surrogate pair"):
        characters(["ab"]).encode("ab\ud83d")


@each_kind
@pytest.mark.parametrize("wrong", [-1, -100, 10**6])
def test_an_id_outside_the_vocabulary_is_an_error(kinds, kind, wrong):
    with pytest.raises(LuthierError, match=f"there is no token {wrong}"):
        kinds[kind].decode([1, wrong])
    with pytest.raises(LuthierError, match=f"there is no token {wrong}"):
        kinds[kind].piece(wrong)


@each_kind
@pytest.mark.parametrize("character", ["a", " ", "\n"])
def test_a_megabyte_of_one_character_takes_seconds(kinds, kind, character):
    began = time.process_time()
    ids = kinds[kind].encode(1_000_000 * character)
    assert time.process_time() - began < 8
    assert kinds[kind].decode(ids) == 1_000_000 * character


def test_threads_that_want_special_tokens_and_threads_that_do_not(kinds):
    tokenizer: Tokenizer = kinds["bpe"]
    text = 200 * "<|endoftext|>"
    wrong: list[int] = []

    def encode(special: bool) -> None:
        for _ in range(30):
            found = tokenizer.encode(text, special=special).count(tokenizer.eos_id)
            if found != (200 if special else 0):
                wrong.append(found)

    threads = [threading.Thread(target=encode, args=(special,)) for special in (True, False) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
