from __future__ import annotations

import json
import tracemalloc
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from luthier.data import chunks, decoding
from luthier.data import prepare as preparing
from luthier.data.prepare import prepare
from luthier.data.shards import open_tokens, read_index
from luthier.data.sources import Texts
from luthier.data.splits import Fractions
from luthier.data.text import Piece
from luthier.errors import LuthierError, UsageError

from .small_tokenizers import WORDS, Backed, characters

DOCUMENTS = [f"{WORDS[i:]} {i}.\n" for i in range(30)]


def test_one_text_gives_the_ids_of_its_parts_and_no_end_of_text(gpt2_way, tmp_path):
    text = "\n".join(DOCUMENTS)
    index = prepare([text], gpt2_way, tmp_path / "out")
    at = int(0.9 * len(text))
    for split, part in (("train", text[:at]), ("validation", text[at:])):
        tokens = open_tokens(tmp_path / "out", split, verify=True)
        assert tokens[:].tolist() == gpt2_way.encode(part)
        assert tokens.bytes == len(part.encode())
        assert tokens.documents.tolist() == [0]
    assert index.end_of_text is None
    assert index.settings["split_by"] == "characters"
    assert list(index.splits) == ["train", "validation"]


def test_several_documents_end_with_end_of_text_and_know_where_they_start(gpt2_way, tmp_path):
    index = prepare(DOCUMENTS, gpt2_way, tmp_path / "out", fractions=Fractions(0.2, 0.1))
    assert index.settings["split_by"] == "documents"
    found = []
    for split in ("train", "validation", "test"):
        tokens = open_tokens(tmp_path / "out", split, verify=True)
        ends = [*tokens.documents[1:].tolist(), len(tokens)]
        documents = [tokens[a:b].tolist() for a, b in zip(tokens.documents.tolist(), ends, strict=True)]
        assert all(ids.pop() == gpt2_way.eos_id for ids in documents)
        texts = [gpt2_way.decode(ids) for ids in documents]
        assert tokens.bytes == sum(len(text.encode()) for text in texts)
        assert documents == [gpt2_way.encode(text) for text in texts]
        found.append(texts)
    assert [len(texts) for texts in found] == [21, 6, 3]
    assert sorted(chain(*found)) == sorted(DOCUMENTS)


def test_special_tokens_written_in_the_text_are_plain_text(gpt2_way, tmp_path):
    prepare(["The sign <|endoftext|> ends nothing here."], gpt2_way, tmp_path / "out", fractions=Fractions(0))
    assert gpt2_way.eos_id not in open_tokens(tmp_path / "out")[:]


def test_shards_pieces_and_batches_change_nothing(tokenizer, tmp_path, monkeypatch):
    prepare(DOCUMENTS, tokenizer, tmp_path / "plain", fractions=Fractions(0.1, split_by="characters"))
    monkeypatch.setattr(chunks.Cutter.__init__, "__defaults__", (40,))
    monkeypatch.setattr(preparing, "BATCH", 100)
    pieces = [Piece(text[a : a + 7], a + 7 >= len(text)) for text in DOCUMENTS for a in range(0, len(text), 7)]
    index = prepare(
        pieces, tokenizer, tmp_path / "small", fractions=Fractions(0.1, split_by="characters"), shard_tokens=50
    )
    assert len(index.splits["train"]["shards"]) > 10
    for split in index.splits:
        plain, small = (open_tokens(tmp_path / name, split, verify=True) for name in ("plain", "small"))
        assert plain[:].tolist() == small[:].tolist()
        assert plain.documents.tolist() == small.documents.tolist()
        assert plain.bytes == small.bytes


def test_the_index_tells_what_was_done_and_the_tokenizer_lies_beside(gpt2_way, tmp_path):
    settings = {"data": ["x.txt"], "normalization": "NFC"}
    prepare(DOCUMENTS, gpt2_way, tmp_path / "out", settings=settings, fractions=Fractions(0.1, seed=5))
    record = json.loads((tmp_path / "out/index.json").read_text())
    assert record["tokenizer"] == gpt2_way.fingerprint
    assert record["settings"] == {**settings, "validation": 0.1, "test": 0.0, "seed": 5, "split_by": "documents"}
    assert record["vocab_size"] == gpt2_way.vocab_size
    assert record["end_of_text"] == gpt2_way.eos_id
    assert (tmp_path / "out/tokenizer.json").exists()


def test_large_vocabularies_take_32_bits(gpt2_way, tmp_path):
    class Large(Backed):
        def encode_batch(self, texts: list[str]) -> list[list[int]]:
            return [[i + 70_000 for i in ids] for ids in super().encode_batch(texts)]

    large = Large(gpt2_way.backend)
    large.vocab_size += 70_000
    assert prepare([WORDS], large, tmp_path / "out", fractions=Fractions(0)).dtype == "uint32"
    assert open_tokens(tmp_path / "out")[:].tolist() == large.encode(WORDS)
    large.vocab_size = 65_536
    with pytest.raises(LuthierError, match=r"gave the id 70,.*outside its vocabulary of 65,536"):
        prepare([WORDS], large, tmp_path / "wrapped")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_tokenizer_without_end_of_text_joins_documents_and_keeps_their_starts(tmp_path):
    tokenizer = characters("abc")
    prepare(["ab", "c", "ba"], tokenizer, tmp_path / "out", fractions=Fractions(0))
    tokens = open_tokens(tmp_path / "out")
    assert tokens[:].tolist() == [0, 1, 2, 1, 0]
    assert tokens.documents.tolist() == [0, 2, 3]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_preparation_leaves_nothing(gpt2_way, tmp_path, stop):
    class Interrupted(list):
        reads = 0

        def __iter__(self):
            self.reads += 1
            yield from super().__iter__()
            if self.reads > 1 and list(tmp_path.iterdir()):
                raise stop

    with pytest.raises(stop):
        prepare(Interrupted(DOCUMENTS), gpt2_way, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_not_touched(gpt2_way, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    with pytest.raises(LuthierError, match="there is something here already"):
        prepare(DOCUMENTS, gpt2_way, tmp_path / "out")
    (tmp_path / "out/mine.txt").unlink()
    prepare(DOCUMENTS, gpt2_way, tmp_path / "out")
    assert read_index(tmp_path / "out").splits


@pytest.mark.parametrize(
    ("documents", "error", "complaint"),
    [
        ([], LuthierError, "there is no text"),
        (["", ""], LuthierError, "there is no text"),
        (["a"], LuthierError, "the train split is empty: 1 characters"),
        ((text for text in DOCUMENTS), UsageError, "read twice: give a list"),
    ],
)
def test_too_little_text_is_an_error_that_leaves_nothing(gpt2_way, tmp_path, documents, error, complaint):
    with pytest.raises(error, match=complaint):
        prepare(documents, gpt2_way, tmp_path / "out", fractions=Fractions(0.05, 0.0))
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_cannot_be_written_is_named(gpt2_way, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LuthierError, match=r"cannot write .*file/out: Not a directory"):
        prepare(DOCUMENTS, gpt2_way, tmp_path / "file/out")


def test_memory_does_not_grow_with_the_text(gpt2_way, tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "BLOCK", 10_000)
    monkeypatch.setattr(chunks.Cutter.__init__, "__defaults__", (5_000,))
    monkeypatch.setattr(preparing, "BATCH", 20_000)
    peaks = []
    for lines in (1000, 8000):
        path = tmp_path / f"{lines}.txt"
        path.write_text("".join(f"{i} {WORDS}\n" for i in range(lines)))
        tracemalloc.start()
        prepare(Texts((path,)), gpt2_way, tmp_path / f"out-{lines}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_progress_reaches_the_number_of_characters(gpt2_way, tmp_path, monkeypatch):
    from contextlib import contextmanager

    seen: dict[str, list[int]] = {}

    @contextmanager
    def watch(what: str, total: int | None):
        seen[what] = []
        yield seen[what].append
        assert total is None or sum(seen[what]) == total

    monkeypatch.setattr(preparing, "progress", watch)
    prepare(DOCUMENTS, gpt2_way, tmp_path / "out")
    assert sum(seen["encoding"]) == sum(map(len, DOCUMENTS))


def test_the_ids_on_disk_are_little_endian(tmp_path):
    prepare(["ba"], characters("ab"), tmp_path / "out", fractions=Fractions(0))
    assert (Path(tmp_path) / "out/train-00000.bin").read_bytes() == np.array([1, 0], "<u2").tobytes()
