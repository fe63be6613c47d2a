"""TensorFlow's checkpoints, written here by the definition of their format and read by Luthier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.errors import LuthierError
from luthier.formats.tensorflow_bundle import MAX_NAME, TensorFlowBundle
from writers import tensorflow as writer

quick = settings(max_examples=150, deadline=None, derandomize=True, database=None)
NUMBERS = np.random.default_rng(0)
VARIABLES = {
    "model/wte": NUMBERS.standard_normal((7, 4), np.float32),
    "model/h0/ln_1/b": NUMBERS.standard_normal(4, np.float32),
    "model/h0/ln_1/g": NUMBERS.standard_normal(4, np.float32),
    "model/h0/attn/c_attn/w": NUMBERS.standard_normal((1, 4, 12), np.float32),
    "model/step": np.float32(3),
    "model/h10/mlp/c_fc/w": NUMBERS.standard_normal((1, 4, 16), np.float32),
}
DATA = "x.data-00000-of-00001"


def bundle(folder: Path, **options) -> TensorFlowBundle:
    writer.write_bundle(folder / "x", {name: np.asarray(value) for name, value in VARIABLES.items()}, **options)
    return TensorFlowBundle(folder / "x")


@pytest.mark.parametrize("block_size", [1, 200, 100_000])
def test_variables_come_back_from_tables_of_one_block_and_of_many(block_size, tmp_path):
    read = bundle(tmp_path, block_size=block_size)
    assert read.shapes() == {name: np.shape(value) for name, value in VARIABLES.items()}
    for name, value in VARIABLES.items():
        assert torch.equal(read.tensor(name), torch.tensor(value)), name


def test_only_the_variable_that_is_asked_for_is_read(tmp_path):
    read = bundle(tmp_path)
    content = (tmp_path / DATA).read_bytes()
    last = max(read.entries.values(), key=lambda entry: entry.offset)
    (tmp_path / DATA).write_bytes(content[: last.offset])
    found = [name for name, entry in read.entries.items() if entry is not last]
    assert all(torch.equal(read.tensor(name), torch.tensor(VARIABLES[name])) for name in found)


def test_every_flipped_bit_of_the_numbers_is_found(tmp_path):
    bundle(tmp_path)
    content = bytearray((tmp_path / DATA).read_bytes())
    content[-1] ^= 1
    (tmp_path / DATA).write_bytes(content)
    with pytest.raises(LuthierError, match=r"checksum of 'model/wte' is wrong"):
        TensorFlowBundle(tmp_path / "x").tensor("model/wte")


def put(folder: Path, *pairs: tuple[bytes, bytes], header: bytes = writer.field(1, 1)) -> TensorFlowBundle:
    """A bundle with these entries and 64 bytes of zeros."""
    (folder / "x.index").write_bytes(writer.table([(b"", header), *pairs], 4000))
    (folder / DATA).write_bytes(bytes(64))
    return TensorFlowBundle(folder / "x")


@pytest.mark.parametrize(
    ("shape", "offset", "size", "complaint"),
    [
        ((2, 4), 64, 32, "truncated"),
        ((2, 4), 2**63, 32, "truncated"),
        ((2, 4), 0, 64, "truncated or belong"),
        ((2**39, 2**39, 2**39), 0, 32, "truncated or belong"),
        ((2**40,), 0, 32, "too large"),
        ((2**64 - 1,), 0, 32, "negative"),
        ((1,) * 9, 0, 4, "9 dimensions"),
    ],
)
def test_a_variable_that_lies_elsewhere_is_refused_before_memory_is_taken(shape, offset, size, complaint, tmp_path):
    message = writer.entry(1, shape, offset, b"").replace(writer.field(5, 0), writer.field(5, size))
    with pytest.raises(LuthierError, match=complaint):
        put(tmp_path, (b"v", message)).tensor("v")


@pytest.mark.parametrize(
    ("header", "pairs", "complaint"),
    [
        (writer.field(1, 0), [], "0 data files"),
        (writer.field(1, 2**31), [], "data files"),
        (writer.field(1, 1) + writer.field(2, 1), [], "big-endian"),
        (writer.field(1, b"x"), [], "expected an integer"),
        (writer.field(1, 1), [(b"v", writer.field(2, 7))], "expected a message"),
        (writer.field(1, 1), [(b"v", writer.field(7, b"slice"))], "slices"),
        (writer.field(1, 1), [(b"v", b"\xff" * 11)], "more than 64 bits"),
        (writer.field(1, 1), [(b"v", b"\x0b")], "unknown wire type"),
        (writer.field(1, 1), [(b"\xff", writer.entry(1, (1,), 0, bytes(4)))], "codec"),
        (
            writer.field(1, 1),
            [(b"a", writer.entry(1, (4,), 0, bytes(16))), (b"b", writer.entry(1, (4,), 8, bytes(16)))],
            "share bytes",
        ),
    ],
)
def test_an_index_that_makes_no_sense_says_why(header, pairs, complaint, tmp_path):
    with pytest.raises(LuthierError, match=rf"x\.index.*{complaint}"):
        put(tmp_path, *pairs, header=header)


def test_a_type_without_numbers_is_named_when_it_is_read(tmp_path):
    read = put(tmp_path, (b"text", writer.entry(7, (1,), 0, bytes(4))))
    with pytest.raises(LuthierError, match="'text' has TensorFlow's type number 7"):
        read.tensor("text")


def test_a_missing_data_file_is_named(tmp_path):
    read = put(tmp_path, (b"v", writer.entry(1, (1,), 0, bytes(4))))
    (tmp_path / DATA).unlink()
    with pytest.raises(LuthierError, match=rf"{DATA} is missing"):
        read.tensor("v")


def test_names_that_grow_from_few_bytes_are_bounded(tmp_path):
    """Each key keeps all of the one before it: a small file would hold gigabytes of names."""
    first = b"a" * (MAX_NAME + 1)
    with pytest.raises(LuthierError, match="too long"):
        put(tmp_path, (first, b""), *((first + bytes([n]), b"") for n in range(9)))


def with_block(content: bytes, compression: int = 0) -> bytes:
    """A table of one data block with these bytes, its checksums right."""
    out = content + bytes([compression])
    out += writer.masked_crc(out)
    handle = writer.varint(0) + writer.varint(len(content))
    index = writer.block([(b"z", handle)])
    place = writer.varint(len(out)) + writer.varint(len(index))
    out += index + b"\0" + writer.masked_crc(index + b"\0")
    return out + (place + place).ljust(40, b"\0") + writer.MAGIC.to_bytes(8, "little")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (with_block(writer.block([(b"", b"")]), compression=1), "compressed"),
        (with_block(b"\xff\xff\xff\xff"), "smaller than it declares"),
        (with_block(b"\x05\x01\x00" + b"a" + bytes(4) + b"\x01\0\0\0"), "shares more"),
        (with_block(b"\x00\x7f\x00" + b"a" + bytes(4) + b"\x01\0\0\0"), "ends too early"),
        (with_block(writer.block([(b"b", b""), (b"a", b"")])), "out of order"),
        (b"nothing", "truncated"),
        (b"", "truncated"),
    ],
)
def test_a_table_that_makes_no_sense_says_why(content, complaint, tmp_path):
    (tmp_path / "x.index").write_bytes(content)
    with pytest.raises(LuthierError, match=rf"x\.index.*{complaint}"):
        TensorFlowBundle(tmp_path / "x")


@quick
@given(data=st.data())
def test_damage_is_an_error_or_changes_nothing(tmp_path_factory, data):
    """Flipped bytes and cut files: never another exception, never other numbers without a word."""
    folder = tmp_path_factory.mktemp("bundle")
    bundle(folder)
    name = data.draw(st.sampled_from(["x.index", DATA]))
    content = bytearray((folder / name).read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    (folder / name).write_bytes(content)
    try:
        read = TensorFlowBundle(folder / "x")
        found = {name: read.tensor(name).clone() for name in read.shapes()}
    except LuthierError:
        return
    assert all(torch.equal(found[name], torch.tensor(value)) for name, value in VARIABLES.items())


@quick
@given(st.binary(max_size=80))
def test_any_block_with_a_right_checksum_is_read_or_refused(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "x.index").write_bytes(with_block(content))
    (folder / DATA).write_bytes(bytes(64))
    try:
        read = TensorFlowBundle(folder / "x")
        for name in read.shapes():
            read.tensor(name)
    except LuthierError:
        pass


@quick
@given(st.binary(max_size=60))
def test_any_entry_is_read_or_refused(tmp_path_factory, message):
    folder = tmp_path_factory.mktemp("bundle")
    try:
        read = put(folder, (b"v", message))
        read.tensor("v")
    except LuthierError:
        pass
