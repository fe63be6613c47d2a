from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hostile_texts import TEXT, property_test
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from luthier.errors import LuthierError, UsageError
from luthier.tokenizers.core import bpe_training
from luthier.tokenizers.core.pieces import BYTE_ALPHABET
from luthier.tokenizers.core.train import characters, train_bpe


def test_characters_are_sorted_after_the_end_token():
    tokenizer = characters(["ba\n", "é a"])
    assert [tokenizer.piece(number).decode() for number in range(tokenizer.vocab_size)] == [
        "<|endoftext|>", "\n", " ", "a", "b", "é",
    ]  # fmt: skip
    assert tokenizer.encode("éa b") == [5, 3, 2, 4]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.eos_ids) == (None, 0, 0, (0,))


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30), st.booleans())
@property_test
def test_characters_write_their_own_text(text, byte_fallback):
    tokenizer = characters([text], byte_fallback=byte_fallback)
    ids = tokenizer.encode(text)
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text
    # the backend, which `transformers` will use, says the same
    assert tokenizer.backend.encode(text, add_special_tokens=False).ids == ids


def test_the_end_token_among_characters_is_plain_text_unless_asked_for():
    tokenizer = characters(["<|endoftext|> ab"])
    assert tokenizer.encode("a<|endoftext|>b", special=True) == [*tokenizer.encode("a"), 0, *tokenizer.encode("b")]
    assert len(tokenizer.encode("a<|endoftext|>b")) == 15


def test_an_unknown_character_is_named_with_its_place_and_the_way_out():
    with pytest.raises(LuthierError, match=r"character 3 of the text, 'é' \(U\+00E9\), .*\(--byte-fallback\)"):
        characters(["abc"]).encode("abcéé")
    with pytest.raises(LuthierError, match=r"'\\x00' \(U\+0000\)"):
        characters(["abc"]).encode_batch(["abc", "\x00"], special=True)


def test_with_byte_fallback_only_unknown_characters_are_bytes():
    tokenizer = characters(["abc"], byte_fallback=True)
    assert tokenizer.vocab_size == 1 + 256 + 3
    assert list(map(tokenizer.piece, tokenizer.encode("aéb"))) == [b"a", b"\xc3", b"\xa9", b"b"]
    assert tokenizer.decode(tokenizer.encode("<0x41>é")) == "<0x41>é"


def test_bpe_has_the_size_asked_for_and_shortens_its_text():
    tokenizer = train_bpe(TEXT.splitlines(keepends=True), 600)
    assert tokenizer.vocab_size == 600
    assert len(tokenizer.encode(TEXT)) < len(TEXT.encode()) / 2
    assert sorted(tokenizer.piece(number) for number in range(1, 257)) == [bytes([byte]) for byte in range(256)]


def test_merges_come_by_count():
    tokenizer = train_bpe(["aab aab aab ab"], 258)
    assert tokenizer.piece(257) == b"ab"


def test_bpe_stops_where_no_pair_occurs_twice():
    assert train_bpe(["abcdefg"], 1000).vocab_size == 257


def test_training_is_the_same_in_another_process():
    code = "from hostile_texts import TEXT; from luthier.tokenizers.core.train import train_bpe as train; "
    code += "print(train([TEXT], 500).fingerprint)"
    here = Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=here)
    assert done.stdout.strip() == train_bpe([TEXT], 500).fingerprint


def test_a_vocabulary_smaller_than_the_bytes_is_a_usage_error():
    with pytest.raises(UsageError, match="a vocabulary of 256 is too small: the bytes and the end token take 257"):
        train_bpe(["abc"], 256)


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_no_text_is_an_error(texts):
    for make in (characters, lambda texts: train_bpe(texts, 300)):
        with pytest.raises(LuthierError, match="there is no text"):
            make(texts)


def test_half_a_surrogate_pair_in_the_texts_is_an_error():
    for make in (characters, lambda texts: train_bpe(texts, 300)):
        with pytest.raises(LuthierError, match=r"character 1 .* U\+DC80"):
            make(["fine", "x\udc80"])


def test_words_that_no_language_has_take_no_time():
    for letter in "aส":
        tokenizer = train_bpe([letter * 500_000], 400)  # whole, it would take minutes
        assert max(map(len, map(tokenizer.piece, range(tokenizer.vocab_size)))) <= bpe_training.LONGEST_WORD


def test_words_of_a_language_are_merged_as_without_the_cut():
    backend = Backend(BPE())
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(
        vocab_size=600,
        min_frequency=2,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=BYTE_ALPHABET,
        show_progress=False,
    )
    backend.train_from_iterator([TEXT], trainer)
    assert json.loads(train_bpe([TEXT], 600).to_json())["model"] == json.loads(backend.to_str())["model"]


def test_a_process_trains_the_same_tokenizer(monkeypatch):
    here = train_bpe([TEXT, "more"], 400)
    monkeypatch.setattr(bpe_training, "SHORT", 0)
    assert train_bpe([TEXT, "more"], 400).fingerprint == here.fingerprint


def test_texts_that_cannot_be_read_end_the_process_too(monkeypatch):
    monkeypatch.setattr(bpe_training, "SHORT", 0)
    with pytest.raises(LuthierError, match=r"U\+DC80"):
        train_bpe(["fine", "x\udc80"], 400)
    with pytest.raises(ChildProcessError):  # there is none
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize("code", ["import sys; sys.exit(3)", "import sys; sys.stdin.buffer.read(100); sys.exit(3)"])
def test_a_process_that_ends_early_is_a_clear_error(monkeypatch, code):
    monkeypatch.setattr(bpe_training, "SHORT", 0)
    monkeypatch.setattr(bpe_training, "COMMAND", (sys.executable, "-c", code))
    with pytest.raises(LuthierError, match=r"the process that trains the tokenizer has ended .*is there enough mem"):
        train_bpe([TEXT, TEXT], 400)


def test_a_signal_ends_the_training_and_its_process():
    code = """
import os, random
from luthier.tokenizers.core.train import train_bpe
def texts():
    yield "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz ", k=4_000_000))
    print("read", flush=True)
try:
    train_bpe(texts(), 30_000)
    print("done")
except KeyboardInterrupt:
    try:
        print("left" if os.waitpid(-1, os.WNOHANG) else "running")
    except ChildProcessError:
        print("stopped")
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "read\n"
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "stopped\n"
