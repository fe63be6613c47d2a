from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.data.prepare import prepare
from luthier.data.shards import ShardWriter, TokenShards, check_files, dtype_for, open_tokens, read_index
from luthier.errors import LuthierError
from luthier.files.sealed_json import sealed

from .small_tokenizers import characters


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    prepare(["abcab" * 20, "cab" * 20, "ba" * 20] * 4, characters("abc"), tmp_path / "out", shard_tokens=100)
    return tmp_path / "out"


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    start=st.integers(-60, 60) | st.none(),
    stop=st.integers(-60, 60) | st.none(),
)
def test_slices_across_shards_are_those_of_one_array(lengths, start, stop):
    whole = np.arange(sum(lengths), dtype=np.uint16)
    tokens = TokenShards(np.split(whole, np.cumsum(lengths)[:-1]))
    assert len(tokens) == len(whole)
    found = tokens[start:stop]
    assert found.tolist() == whole[start:stop].tolist()
    assert found.dtype == np.uint16


@given(lengths=st.lists(st.integers(5, 9), min_size=1, max_size=6), data=st.data())
def test_rows_are_slices_side_by_side(lengths, data):
    whole = np.arange(sum(lengths), dtype=np.uint16)
    tokens = TokenShards(np.split(whole, np.cumsum(lengths)[:-1]))
    starts = np.array(data.draw(st.lists(st.integers(0, len(whole) - 5), max_size=8)), np.int64)
    rows = tokens.rows(starts, 5)
    assert rows.dtype == np.uint16
    assert rows.tolist() == [whole[start : start + 5].tolist() for start in starts]


@pytest.mark.parametrize(("vocab_size", "dtype"), [(1, "uint16"), (65_536, "uint16"), (65_537, "uint32")])
def test_the_vocabulary_chooses_the_type_of_an_id(vocab_size, dtype, tmp_path):
    assert dtype_for(vocab_size) == dtype
    with ShardWriter(tmp_path, "train", dtype, vocab_size, 10) as writer:
        writer.start_document()
        writer.write([vocab_size - 1])
        for bad in (vocab_size, -1):
            with pytest.raises(LuthierError, match=f"the id {bad:,}, outside its vocabulary of {vocab_size:,}"):
                writer.write([bad])
        assert writer.finish()["tokens"] == 1
    assert np.fromfile(tmp_path / "train-00000.bin", dtype).tolist() == [vocab_size - 1]


def test_a_vocabulary_beyond_32_bits_is_an_error():
    with pytest.raises(LuthierError, match="does not fit the 32 bits"):
        dtype_for((1 << 32) + 1)


def test_tokens_are_mapped_not_read(folder):
    tokens = open_tokens(folder, "train")
    assert all(isinstance(shard.base, np.memmap) for shard in tokens._shards)
    assert tokens.fingerprint == read_index(folder).fingerprint
    with pytest.raises(ValueError, match="read-only"):
        tokens[:5][0] = 1


def cut(folder: Path) -> None:
    path = folder / "train-00001.bin"
    path.write_bytes(path.read_bytes()[:-2])


def lose(folder: Path) -> None:
    (folder / "train-00001.bin").unlink()


def lose_documents(folder: Path) -> None:
    (folder / "train-documents.npy").unlink()


def other_documents(folder: Path) -> None:
    np.save(folder / "train-documents.npy", np.array([0, 10**9] * 5))


def pickle_documents(folder: Path) -> None:
    np.save(folder / "train-documents.npy", np.array([{}], dtype=object), allow_pickle=True)


def change(**values: object):
    def damage(folder: Path) -> None:
        record = json.loads((folder / "index.json").read_text())
        record.update(values)
        (folder / "index.json").write_text(json.dumps(sealed(record)))

    return damage


def escape(folder: Path) -> None:
    shutil.copy(folder / "train-00000.bin", folder.parent / "train-00000.bin")
    record = json.loads((folder / "index.json").read_text())
    record["splits"]["train"]["shards"][0]["file"] = "../train-00000.bin"
    (folder / "index.json").write_text(json.dumps(sealed(record)))


def fewer(folder: Path) -> None:
    record = json.loads((folder / "index.json").read_text())
    record["splits"]["train"]["shards"].pop()
    (folder / "index.json").write_text(json.dumps(sealed(record)))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (cut, r"train-00001\.bin: has 198 bytes; the index says 100 tokens of uint16, 200 bytes"),
        (lose, r"train-00001\.bin: is missing"),
        (lose_documents, r"train-documents\.npy: cannot be read"),
        (other_documents, r"train-documents\.npy: not the starts of"),
        (pickle_documents, r"train-documents\.npy: cannot be read"),
        (change(format="luthier-tokens-9"), "made by another version"),
        (change(dtype="object"), "damaged"),
        (change(splits={"train": {}}), "damaged index of 'train'"),
        (change(splits=3), "damaged"),
        (change(splits={"train": {"shards": [{"file": 3, "tokens": 1}]}}), "damaged index of 'train'"),
        (change(splits={"train": {"shards": [{"file": "a", "tokens": -5}]}}), "a: is missing"),
        (fewer, "do not add up"),
        (escape, "not a file of this folder"),
    ],
)
def test_what_is_not_as_the_index_says_is_named_on_opening(folder, damage, complaint):
    damage(folder)
    with pytest.raises(LuthierError, match=complaint):
        open_tokens(folder, "train")


def test_one_flipped_bit_is_found_when_asked_for(folder):
    path = folder / "train-00001.bin"
    data = bytearray(path.read_bytes())
    data[6] ^= 2  # 2 becomes 0, which is in the vocabulary
    path.write_bytes(data)
    open_tokens(folder, "train")
    with pytest.raises(LuthierError, match=r"train-00001\.bin: is not as it was written: its sha256 is "):
        open_tokens(folder, "train", verify=True)


def test_an_id_beyond_the_vocabulary_is_named_with_its_shard_and_position(folder):
    path = folder / "train-00001.bin"
    data = bytearray(path.read_bytes())
    data[15] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(LuthierError, match=r"train-00001\.bin: the id at position 7 is 4,\d+, outside the vocab"):
        check_files(folder)
    change(vocab_size=2)(folder)
    with pytest.raises(LuthierError, match=r"train-00000\.bin: the id at position \d is 2, outside"):
        open_tokens(folder, "train", verify=True)


def test_a_start_of_a_document_that_moved_is_found(folder):
    path = folder / "train-documents.npy"
    documents = np.load(path)
    documents[-1] += 1
    np.save(path, documents)
    open_tokens(folder, "train")
    with pytest.raises(LuthierError, match=r"train-documents\.npy: is not as it was written"):
        check_files(folder)


def test_a_changed_number_in_the_index_is_found(folder):
    text = (folder / "index.json").read_text()
    (folder / "index.json").write_text(text.replace('"bytes": ', '"bytes": 1', 1))
    with pytest.raises(LuthierError, match=r"index\.json: damaged \(its checksum"):
        read_index(folder)


def test_a_folder_or_split_that_is_not_there_says_what_is(folder, tmp_path):
    with pytest.raises(LuthierError, match="no split 'test' here, only train, validation"):
        open_tokens(folder, "test")
    with pytest.raises(LuthierError, match="make one with 'luthier data prepare'"):
        open_tokens(tmp_path)
    (folder / "index.json").write_text("{")
    with pytest.raises(LuthierError, match=r"index\.json: damaged"):
        read_index(folder)
