"""Reading GGUF: every kind of value and number type, and hostile files, which are one clear error and cost little."""

from __future__ import annotations

import struct
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize, quantize
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.errors import LuthierError
from luthier.formats import gguf_file
from luthier.formats.gguf_file import GGUFFile
from luthier.formats.gguf_header import TENSOR_TYPES

Q = GGMLQuantizationType
UNPACKED = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]
FIELDS = {
    "general.architecture": "llama",
    "a.text": "bœuf",
    "a.number": 7,
    "a.ratio": 1e-5,
    "a.yes": True,
    "a.texts": ["a", "", "é"],
    "a.numbers": [1, -2, 3],
    "a.ratios": [0.5, -1.0],
    "a.flags": [True, False],
}


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape, dtype=np.float32)


def write(path: Path, fields: dict[str, object], tensors: dict[str, tuple[np.ndarray, GGMLQuantizationType]]) -> Path:
    """By the `gguf` package's own hand. The arrays are uint8 where they are packed."""
    writer = GGUFWriter(path, "llama")
    for name, value in fields.items():
        if name != "general.architecture":
            {str: writer.add_string, bool: writer.add_bool, float: writer.add_float32, int: writer.add_uint32}.get(
                type(value), writer.add_array
            )(name, value)
    for name, (array, kind) in tensors.items():
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_settings_come_as_plain_python(tmp_path):
    file = GGUFFile(write(tmp_path / "a.gguf", FIELDS, {"t": (numbers(2), Q.F32)}))
    assert file.fields == FIELDS
    assert {name: type(value) for name, value in file.fields.items()} == {k: type(v) for k, v in FIELDS.items()}


@pytest.mark.parametrize(
    ("kind", "form", "value"),
    [
        (0, "B", 200),
        (1, "b", -5),
        (2, "H", 60_000),
        (3, "h", -9),
        (4, "I", 2**31),
        (5, "i", -1),
        (6, "f", 0.1),
        (7, "?", True),
        (10, "Q", 2**40),
        (11, "q", -(2**40)),
        (12, "d", 0.1),
    ],
)
def test_every_kind_of_number_alone_and_in_an_array(kind, form, value, tmp_path):
    one, many = (
        header(("n", kind, struct.pack("<" + form, value))),
        array(kind, 2, struct.pack("<2" + form, value, value)),
    )
    assert opened(tmp_path, one).fields == {"n": value}
    assert opened(tmp_path, header(("n", 9, many))).fields == {"n": pytest.approx([value, value])}


def test_floats_are_mapped_as_they_are(tmp_path):
    whole = numbers(3, 2, 5)
    half, brain = torch.from_numpy(whole).half(), torch.from_numpy(whole).bfloat16()
    tensors = {
        "f32": (whole, Q.F32),
        "f16": (half.numpy(), Q.F16),
        "bf16": (brain.view(torch.uint8).numpy(), Q.BF16),
        "f64": (whole.astype(np.float64), Q.F64),
    }
    file = GGUFFile(write(tmp_path / "a.gguf", {}, tensors))
    assert file.shapes() == dict.fromkeys(tensors, (3, 2, 5)), "the shape is in torch's order"
    assert torch.equal(file.tensor("f32"), torch.from_numpy(whole))
    assert torch.equal(file.tensor("f16"), half)
    assert torch.equal(file.tensor("bf16"), brain)
    assert torch.equal(file.tensor("f64"), torch.from_numpy(whole).double())
    assert not file.is_quantized()
    start = torch.from_numpy(file.data).data_ptr()
    assert all(start < file.tensor(name).data_ptr() < start + file.data.size for name in tensors)


def test_a_mapped_weight_may_be_changed_and_the_file_does_not(tmp_path):
    path = write(tmp_path / "a.gguf", {}, {"t": (numbers(4), Q.F32)})
    before = path.read_bytes()
    weight = GGUFFile(path).tensor("t")
    weight.zero_()
    assert weight.sum() == 0
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", UNPACKED)
def test_each_packed_type_is_unpacked_as_the_gguf_package_does(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_file, "VALUES_PER_CHUNK", 1000)  # some rows at a time, the last ones fewer
    _, size = GGML_QUANT_SIZES[Q[kind]]
    blocks = np.random.default_rng(2).integers(0, 256, (4, 5, 2 * size), dtype=np.uint8)
    file = GGUFFile(write(tmp_path / "a.gguf", {}, {"t": (blocks, Q[kind])}), torch.float32)
    with np.errstate(all="ignore"):
        expected = torch.from_numpy(dequantize(blocks, Q[kind]))
    assert file.is_quantized()
    assert file.shapes()["t"] == tuple(expected.shape)
    assert torch.equal(file.tensor("t").view(torch.int32), expected.view(torch.int32)), "bits, since some are nan"
    assert file.raw("t")[0].number == Q[kind]
    assert np.array_equal(file.raw("t")[1], blocks)


def test_a_block_is_what_the_format_defines(tmp_path):
    q8 = struct.pack("<e32b", 0.5, *range(-16, 16))  # scale, numbers
    q4 = struct.pack("<ee16B", 0.25, 3.0, *[low | (15 - low) << 4 for low in range(16)])  # scale, least, two in a byte
    tensors = {"q8": (np.frombuffer(q8, np.uint8), Q.Q8_0), "q4": (np.frombuffer(q4, np.uint8), Q.Q4_1)}
    file = GGUFFile(write(tmp_path / "a.gguf", {}, tensors))
    assert file.tensor("q8").dtype == torch.bfloat16
    assert file.tensor("q8").tolist() == [number / 2 for number in range(-16, 16)]
    assert file.tensor("q4").tolist() == [3 + n / 4 for n in range(16)] + [3 + (15 - n) / 4 for n in range(16)]


def test_unpacking_twice_gives_the_same_and_leaves_changed_neighbors_alone(tmp_path):
    big = quantize(numbers(300, 320), Q.Q8_0)
    around = {"before": (numbers(100), Q.F32), "big": (big, Q.Q8_0), "after": (numbers(100), Q.F32)}
    file = GGUFFile(write(tmp_path / "a.gguf", {}, around))
    file.tensor("before").fill_(5.0)
    file.tensor("after").fill_(6.0)
    first = file.tensor("big")
    assert torch.equal(file.tensor("big"), first)
    assert file.tensor("before").eq(5).all()
    assert file.tensor("after").eq(6).all()


@pytest.mark.parametrize("kind", ["I32", "Q8_1", "Q8_K"])
def test_what_cannot_be_unpacked_is_named(kind, tmp_path):
    block, size = GGML_QUANT_SIZES[Q[kind]]
    data = bytes(size)
    file = opened(tmp_path, header(tensors=[("odd", (block,), Q[kind].value, 0)], data=data))
    with pytest.raises(LuthierError, match=f"'odd' is of the number type {kind}, which cannot be dequantized"):
        file.tensor("odd")


# files by hand, to be wrong on purpose


def text(value: str | bytes) -> bytes:
    value = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(value)) + value


def array(kind: int, count: int, items: bytes) -> bytes:
    return struct.pack("<IQ", kind, count) + items


def header(*fields, tensors=(), data=b"", version=3, n_fields=None, n_tensors=None, alignment=32) -> bytes:
    """A file. fields: (name, kind, bytes); tensors: (name, dimensions, number type, offset)."""
    out = b"GGUF" + struct.pack("<I", version)
    out += struct.pack(
        "<QQ", len(tensors) if n_tensors is None else n_tensors, len(fields) if n_fields is None else n_fields
    )
    for name, kind, value in fields:
        out += text(name) + struct.pack("<I", kind) + value
    for name, dimensions, kind, offset in tensors:
        out += text(name) + struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
        out += struct.pack("<IQ", kind, offset)
    return out + bytes(-len(out) % alignment) + data


def opened(folder: Path, content: bytes) -> GGUFFile:
    path = folder / "hand.gguf"
    path.write_bytes(content)
    return GGUFFile(path)


F32 = 0
DATA = bytes(64)
HUGE = 2**63 - 1
WRONG = {
    "empty": (b"", "is empty"),
    "four bytes": (b"GGUF", "truncated"),
    "not gguf": (b"GGML" + bytes(40), "not a GGUF file"),
    "version 1": (header(version=1), "version 1 cannot be read"),
    "big endian": (header(version=3 << 24), "big endian"),
    "huge number of tensors": (header(n_tensors=HUGE), f"{HUGE} tensors in"),
    "many tensors": (header(n_tensors=2**16, data=DATA), "65536 tensors in"),
    "huge number of settings": (header(n_fields=HUGE), f"{HUGE} settings in"),
    "huge name": (
        header(n_fields=1, data=struct.pack("<Q", HUGE) + DATA, alignment=1),
        f"asks for byte {24 + 8 + HUGE} of",
    ),
    "long name": (header(("a" * 300, 4, bytes(4))), "is not a name of a setting"),
    "no name": (header(("", 4, bytes(4))), "not a name of a setting"),
    "huge text": (header(("a", 8, struct.pack("<Q", HUGE)), data=DATA), "asks for byte"),
    "huge array": (header(("a", 9, array(4, HUGE, DATA))), "items in 'a'"),
    "huge array of texts": (header(("a", 9, array(8, 2**40, DATA))), "items in 'a'"),
    "array of arrays": (header(("a", 9, array(9, 1, array(4, 1, DATA)))), "unknown value type"),
    "unknown kind": (header(("a", 13, DATA)), "unknown value type"),
    "text that is no UTF-8": (header(("a", 8, text(b"\xff\xfe"))), "not UTF-8"),
    "name with an escape": (header(("a\x1b[2J", 4, bytes(4))), "is not a name of a setting"),
    "setting twice": (header(("a", 4, bytes(4)), ("a", 4, bytes(4))), "two settings 'a'"),
    "alignment 0": (header(("general.alignment", 4, bytes(4))), "not a power of 2"),
    "alignment 3": (header(("general.alignment", 4, struct.pack("<I", 3))), "not a power of 2"),
    "alignment huge": (header(("general.alignment", 4, struct.pack("<I", 2**31))), "not a power of 2"),
    "alignment a text": (header(("general.alignment", 8, text("32"))), "not a power of 2"),
    "tensor twice": (header(tensors=[("t", (4,), F32, 0), ("t", (4,), F32, 32)], data=DATA), "two tensors 't'"),
    "no dimension": (header(tensors=[("t", (), F32, 0)], data=DATA), "has 0 dimensions"),
    "five dimensions": (header(tensors=[("t", (1,) * 5, F32, 0)], data=DATA), "has 5 dimensions"),
    "dimension 0": (header(tensors=[("t", (0, 4), F32, 0)], data=DATA), r"'t' is \(0, 4\)"),
    "dimensions whose product overflows": (header(tensors=[("t", (2**32,) * 4, F32, 0)], data=DATA), "truncated: 't'"),
    "dimension beyond the end": (header(tensors=[("t", (17,), F32, 0)], data=DATA), "'t' ends at byte"),
    "offset beyond the end": (header(tensors=[("t", (16,), F32, 32)], data=DATA), "'t' ends at byte"),
    "offset huge": (header(tensors=[("t", (1,), F32, 2**64 - 32)], data=DATA), "'t' ends at byte"),
    "offset that is not aligned": (header(tensors=[("t", (1,), F32, 4)], data=DATA), "not a multiple of 32"),
    "unknown number type": (
        header(tensors=[("t", (1,), 4, 0)], data=DATA),
        r"unknown tensor type \(4\)",
    ),
    "rows that are no blocks": (header(tensors=[("t", (16, 2), Q.Q4_0.value, 0)], data=DATA), "in Q4_0"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_broken_file_is_one_line_that_names_it_and_costs_nothing(wrong, tmp_path):
    content, message = WRONG[wrong]
    tracemalloc.start()
    begin = time.perf_counter()
    with pytest.raises(LuthierError, match=message) as caught:
        opened(tmp_path, content)
    seconds, (_, peak) = time.perf_counter() - begin, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "hand.gguf" in str(caught.value)
    assert str(caught.value).isprintable()
    assert peak < 2**20
    assert seconds < 1


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(LuthierError, match=r"none\.gguf cannot be read: No such file"):
        GGUFFile(tmp_path / "none.gguf")


def test_weights_of_an_alignment_of_1_are_read(tmp_path):
    one = ("general.alignment", 4, struct.pack("<I", 1))
    tensors = [("odd", (2,), Q.F16.value, 0), ("t", (3,), F32, 5)]
    for extra in range(4):  # wherever the data begins
        field = ("x", 8, text("x" * extra))
        data = struct.pack("<2e", 1, 2) + b"?" + struct.pack("<3f", 3, 4, 5)
        file = opened(tmp_path, header(one, field, tensors=tensors, data=data, alignment=1))
        assert file.tensor("odd").tolist() == [1, 2]
        assert file.tensor("t").tolist() == [3, 4, 5]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small valid file of everything."""
    tensors = {
        "a": (numbers(3, 4), Q.F32),
        "b": (quantize(numbers(2, 64), Q.Q4_0), Q.Q4_0),
        "c": (numbers(5).astype(np.float16), Q.F16),
    }
    path = write(tmp_path_factory.mktemp("whole") / "a.gguf", FIELDS, tensors)
    return path, path.read_bytes()


def open_all(path: Path, content: bytes) -> None:
    """All of a file is read, or it is a LuthierError."""
    path.write_bytes(content)
    with suppress(LuthierError):
        file = GGUFFile(path)
        for name, shape in file.shapes().items():
            assert tuple(file.tensor(name).shape) == shape


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(place=st.integers(0, 700), bytes_=st.binary(min_size=1, max_size=9))
def test_foreign_bytes_are_a_clear_error_or_another_file(place, bytes_, whole):
    path, content = whole
    open_all(path, content[:place] + bytes_ + content[place + len(bytes_) :])


def test_every_truncation_is_a_clear_error(whole):
    path, content = whole
    for size in range(0, len(content) - 22, 5):  # the last bytes only fill the last tensor up
        path.write_bytes(content[:size])
        with pytest.raises(LuthierError):
            GGUFFile(path)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(place=st.integers(0, 700), value=st.sampled_from([0, 1, 2**16, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1]))
def test_huge_numbers_anywhere_are_a_clear_error_or_another_file(place, value, whole):
    path, content = whole
    open_all(path, content[:place] + struct.pack("<Q", value) + content[place + 8 :])


def test_number_types_are_those_of_the_gguf_package():
    for kind in Q:
        assert TENSOR_TYPES[kind] == (kind, kind.name, *GGML_QUANT_SIZES[kind])
