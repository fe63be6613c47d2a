"""Writing GGUF: what the `gguf` package's own reader finds, and nothing half written."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import quantize

from luthier.errors import LuthierError
from luthier.formats import gguf_writing
from luthier.formats.gguf_file import GGUFFile
from luthier.formats.gguf_writing import write

SETTINGS = {
    "general.architecture": "llama",
    "a.text": "bœuf",
    "a.count": 7,
    "a.long": 2**40,
    "a.below": -3,
    "a.ratio": 0.1,
    "a.no": False,
    "a.texts": ["a", "é"],
    "a.kinds": [1, 3],
    "a.scores": [0.5, -1.0],
}
MATRIX = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))


def layout(kind: str, tensor: torch.Tensor = MATRIX) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {"norm": ("F32", (5,)), "matrix": (kind, tuple(tensor.shape))}


def tensors(matrix: torch.Tensor = MATRIX):
    return [("norm", torch.arange(5.0)), ("matrix", matrix)]


def test_the_packages_own_reader_finds_settings_and_types(tmp_path):
    path = tmp_path / "new" / "a.gguf"
    write(path, SETTINGS, layout("F32"), tensors())
    reader = GGUFReader(path)
    for name, value in SETTINGS.items():
        assert reader.fields[name].contents() == pytest.approx(value), name
    kinds = {name: [kind.name for kind in reader.fields[name].types] for name in SETTINGS}
    assert kinds["a.count"] == ["UINT32"]
    assert kinds["a.long"] == ["UINT64"]
    assert kinds["a.below"] == ["INT32"]
    assert kinds["a.kinds"] == ["ARRAY", "INT32"]
    assert kinds["a.scores"] == ["ARRAY", "FLOAT32"]
    assert [tensor.name for tensor in reader.tensors] == ["norm", "matrix"]
    assert all(tensor.data_offset % 32 == 0 for tensor in reader.tensors)
    assert np.array_equal(reader.tensors[1].data, MATRIX.numpy())
    assert GGUFFile(path).fields == SETTINGS
    assert [file.name for file in path.parent.iterdir()] == ["a.gguf"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_floats_come_back_as_they_were(dtype, tmp_path):
    kind = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}[dtype]
    for matrix in (MATRIX.to(dtype), MATRIX.to(dtype).T):
        write(tmp_path / "a.gguf", SETTINGS, layout(kind, matrix), tensors(matrix))
        file = GGUFFile(tmp_path / "a.gguf")
        assert file.tensor("matrix").dtype == dtype
        assert torch.equal(file.tensor("matrix"), matrix)
        assert file.tensor("norm").dtype == torch.float32


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_packed_types_are_the_packages_own(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_writing, "VALUES_PER_CHUNK", 130)  # two rows at a time
    write(tmp_path / "a.gguf", SETTINGS, layout(kind), tensors())
    file = GGUFFile(tmp_path / "a.gguf", torch.float32)
    number_type, data = file.raw("matrix")
    assert number_type.name == kind
    assert np.array_equal(data, quantize(MATRIX.numpy(), GGMLQuantizationType[kind]))
    step = MATRIX.abs().max() / (127 if kind == "Q8_0" else 8)
    assert (file.tensor("matrix") - MATRIX).abs().max() <= step * 1.01


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_floats_of_another_type_are_rounded_as_torch_does(kind, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_writing, "VALUES_PER_CHUNK", 130)  # two rows at a time
    matrix = MATRIX.to(dtype)
    write(tmp_path / "a.gguf", SETTINGS, layout(kind), tensors(matrix))
    found = GGUFFile(tmp_path / "a.gguf").tensor("matrix")
    assert torch.equal(found, matrix.float().to(found.dtype))


def test_zeros_and_the_tiniest_numbers_can_be_packed(tmp_path):
    tiny = torch.zeros(3, 32)
    tiny[1], tiny[2, 0] = 1e-45, 1e-38
    for kind in ("Q8_0", "Q4_0"):
        write(tmp_path / "a.gguf", SETTINGS, layout(kind, tiny), tensors(tiny))
        assert (GGUFFile(tmp_path / "a.gguf").tensor("matrix") == 0).all()


@pytest.mark.parametrize(
    ("kind", "number"),
    [("F16", 70_000.0), ("Q8_0", 1e7), ("Q4_0", 6e5), ("Q8_0", float("nan")), ("F16", float("inf")), ("Q4_0", -6e5)],
)
def test_numbers_that_a_type_cannot_hold_are_refused_and_the_old_file_stays(kind, number, tmp_path):
    path = tmp_path / "a.gguf"
    path.write_bytes(b"GGUF: the old one")
    broken = MATRIX.clone()
    broken[3, 3] = number
    with pytest.raises(LuthierError, match=f"'matrix' has values that {kind} cannot"):
        write(path, SETTINGS, layout(kind), tensors(broken))
    assert path.read_bytes() == b"GGUF: the old one"
    assert [file.name for file in tmp_path.iterdir()] == ["a.gguf"]


def test_half_precision_infinity_is_kept_where_nothing_is_converted(tmp_path):
    matrix = MATRIX.half()
    matrix[0, 0] = float("inf")
    write(tmp_path / "a.gguf", SETTINGS, layout("F16", matrix), tensors(matrix))
    assert torch.equal(GGUFFile(tmp_path / "a.gguf").tensor("matrix"), matrix)


def test_tensors_are_asked_for_one_at_a_time(tmp_path):
    path = tmp_path / "a.gguf"
    big = dict.fromkeys("abcd", ("F32", (1 << 16,)))
    sizes = []

    def stream():
        for name in big:
            [part] = tmp_path.glob(".a.gguf.*")
            sizes.append(part.stat().st_size)
            yield name, torch.zeros(1 << 16)

    write(path, SETTINGS, big, stream())
    assert sizes == sorted(set(sizes)), "all were taken before the first was written"


def test_tensors_that_are_not_those_of_the_layout_are_a_mistake(tmp_path):
    with pytest.raises(ValueError, match="expected the tensor norm, got matrix"):
        write(tmp_path / "a.gguf", SETTINGS, layout("F32"), reversed(tensors()))
    with pytest.raises(ValueError, match="shorter"):
        write(tmp_path / "a.gguf", SETTINGS, layout("F32"), [])
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(LuthierError, match="is a folder: name a file in it"):
        write(tmp_path, SETTINGS, layout("F32"), tensors())
    (tmp_path / "file").write_text("")
    with pytest.raises(LuthierError, match=r"cannot write .*a\.gguf: (Not a directory|File exists)"):
        write(tmp_path / "file" / "a.gguf", SETTINGS, layout("F32"), tensors())


def test_a_text_that_is_no_unicode_is_named(tmp_path):
    with pytest.raises(LuthierError, match=r"cannot write .*a\.gguf: 'x.ud800' contains half of a surrogate pair"):
        write(tmp_path / "a.gguf", SETTINGS | {"a.text": "x\ud800"}, layout("F32"), tensors())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.gguf"
    path.write_bytes(b"GGUF: the old one")

    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gguf.GGUFWriter.write_tensor_data", full)
    with pytest.raises(LuthierError, match=r"cannot write .*a\.gguf: No space left on device"):
        write(path, SETTINGS, layout("F32"), tensors())
    assert path.read_bytes() == b"GGUF: the old one"
    assert [file.name for file in tmp_path.iterdir()] == ["a.gguf"]
