"""Text as it comes: stop strings however the tokens cut them, and whole characters only."""

from __future__ import annotations

from itertools import pairwise
from types import MappingProxyType

from byte_models import ByteTokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.generation.stream_decoder import StopStringFilter, StreamDecoder

property_test = settings(max_examples=200, deadline=None, derandomize=True, database=None)
LETTERS = st.text("ab<é", max_size=30)  # few, so that stop strings do come


def until_stop(text, stop):
    """The same from the whole text: what stands before the first string to be complete."""
    found = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    return text[: min(found)[1]] if found else text


@property_test
@given(
    text=LETTERS, stop=st.lists(st.text("ab<é", min_size=1, max_size=4), max_size=3), cuts=st.sets(st.integers(0, 30))
)
def test_stop_strings_end_the_text_wherever_its_pieces_are_cut(text, stop, cuts):
    finder = StopStringFilter(stop)
    edges = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    shown = ""
    for start, end in pairwise(edges):
        shown += finder.push(text[start:end])
        assert not any(s in shown for s in stop)
        if finder.stopped:
            break
    shown += finder.flush()
    assert shown == until_stop(text, stop)
    assert finder.stopped == any(s in text for s in stop)


def test_only_what_may_begin_a_stop_string_is_held_back():
    finder = StopStringFilter(["\nUser:"])
    assert finder.push("Hello.\nU") == "Hello."
    assert finder.push("nder") == "\nUnder"
    assert finder.push("\nUser") == ""
    assert finder.flush() == "\nUser"


@property_test
@given(st.text(max_size=20), st.text(max_size=20))
def test_a_stream_has_whole_characters_only(prompt, text):
    tokenizer = ByteTokenizer()
    writer = StreamDecoder(tokenizer, tokenizer.encode(prompt), ())
    pieces = [writer.push(token) for token in tokenizer.encode(text)] + [writer.flush()]
    assert "".join(pieces) == text
    assert all(len(piece) <= 1 for piece in pieces)  # one byte a token: each character at its last byte


def test_half_a_character_at_the_end_is_left_out(tokenizer):
    writer = StreamDecoder(tokenizer, [65], ())
    assert [writer.push(token) for token in "é".encode()[:1]] == [""]
    assert writer.flush() == ""
    writer = StreamDecoder(tokenizer, [65], ())
    assert "".join(map(writer.push, b"\xc3a")) + writer.flush() == "�a"  # within a text it is shown


class Words:
    """Like SentencePiece: words carry the space before them, and the one that begins a text is dropped."""

    special_tokens = MappingProxyType({"<s>": 0})
    words = ("<s>", " Hello", " world")

    def stream(self):
        return WordStream(self.words)


class WordStream:
    def __init__(self, words):
        self.words, self.begins = words, True

    def push(self, token):
        word = self.words[token]
        self.begins, begins = False, self.begins
        return word.removeprefix(" ") if begins else word

    def flush(self):
        return ""


def test_the_space_after_a_prompt_is_kept_and_that_of_a_new_text_is_not():
    assert StreamDecoder(Words(), [0, 1], ()).push(2) == " world"
    assert StreamDecoder(Words(), [0], ()).push(1) == "Hello"


def test_the_prompt_plays_no_part_in_stop_strings(tokenizer):
    writer = StreamDecoder(tokenizer, tokenizer.encode("EN"), ["END"])
    assert "".join(writer.push(token) for token in tokenizer.encode("D END")) == "D "
    assert writer.stopped
