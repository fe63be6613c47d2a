from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from luthier.data.chunks import Chunk, Cutter
from luthier.errors import LuthierError

from .small_tokenizers import WORDS, Backed, characters

LINE = "the fox jumps\nover the lazy dog; don't  sleep\n\n  indented\n/path\n日本語。中文"


def ids_of(cutter: Cutter, chunks: list[Chunk]) -> list[int]:
    rows = cutter.tokenizer.encode_arrays([chunk.before + chunk.text for chunk in chunks])
    return [i for ids in cutter.without_before(chunks, rows) for i in ids.tolist()]


def in_chunks(tokenizer: Backed, pieces: list[str], size: int) -> tuple[list[int], int]:
    cutter = Cutter(tokenizer, size)
    chunks = [chunk for piece in pieces for chunk in cutter.push(piece)]
    chunks.append(cutter.finish())
    assert "".join(chunk.text for chunk in chunks) == "".join(pieces)
    return ids_of(cutter, chunks), len(chunks)


@settings(max_examples=60)
@given(
    words=st.lists(
        st.sampled_from([*WORDS.split(" "), *LINE, "\n", "\n\n", " ", "  ", "\t", "the", "/", "'s"]), max_size=80
    ),
    size=st.integers(1, 40),
    at=st.integers(0, 200),
)
def test_ids_are_those_of_the_whole_text_wherever_it_is_cut(tokenizer, words, size, at):
    text = "".join(words)
    ids, _ = in_chunks(tokenizer, [text[:at], text[at:]], size)
    assert ids == tokenizer.encode(text)


def test_a_long_text_is_cut_into_chunks_of_about_the_size(tokenizer):
    text = (WORDS + "\n") * 200
    ids, chunks = in_chunks(tokenizer, [text], 1000)
    assert ids == tokenizer.encode(text)
    assert chunks >= len(text) / 2000


@pytest.mark.parametrize("text", ["word " * 3000, "中文。日本語" * 2000], ids=["one line", "no space"])
def test_a_text_without_line_ends_is_cut_between_words_or_sentences(gpt2_way, text):
    ids, chunks = in_chunks(gpt2_way, [text], 500)
    assert ids == gpt2_way.encode(text)
    assert chunks > 5


def test_a_run_of_one_character_is_not_cut_and_not_tried_over_and_over(gpt2_way):
    calls = []
    encode = gpt2_way.encode_batch
    text = "a" * 50_000
    cutter = Cutter(gpt2_way, 100)
    gpt2_way.encode_batch = lambda texts: calls.append(texts) or encode(texts)
    try:
        assert not [chunk for i in range(0, len(text), 1000) for chunk in cutter.push(text[i : i + 1000])]
    finally:
        gpt2_way.encode_batch = encode
    assert cutter.finish().text == text
    assert len(calls) < 100


def test_a_tokenizer_that_never_saw_a_line_end_is_not_asked_for_one():
    tokenizer = characters("abc ")
    text = "abc cab " * 100
    ids, chunks = in_chunks(tokenizer, [text], 50)
    assert ids == tokenizer.encode(text)
    assert chunks > 5


def test_a_tokenizer_that_reads_further_than_the_check_is_an_error_not_other_ids():
    class Farsighted:
        def encode_arrays(self, texts: list[str]) -> list[NDArray[np.uint32]]:
            rows = [[len(text)] if len(text) > 1200 else [ord(c) for c in text] for text in texts]
            return [np.array(row, np.uint32) for row in rows]

    cutter = Cutter(Farsighted(), 2000)
    chunks = [*cutter.push("word\n" * 2000), cutter.finish()]
    with pytest.raises(LuthierError, match="give the text in smaller files"):
        ids_of(cutter, chunks)
