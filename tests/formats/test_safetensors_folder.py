"""Safetensors folders: what is written is what the library reads, and hostile files are one clear error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from luthier.errors import LuthierError
from luthier.formats.safetensors_files import INDEX, SINGLE, SafetensorsFolder, write

TENSORS = {
    "a": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
    "b": torch.tensor(2.5, dtype=torch.bfloat16),
    "c": torch.zeros(0, 7, dtype=torch.float16),
    "d": torch.arange(6, dtype=torch.float64).reshape(2, 3).T,
}


def layout(tensors):
    return {name: tensor.to("meta") for name, tensor in tensors.items()}


def test_what_is_written_is_what_the_library_reads(tmp_path):
    write(tmp_path, layout(TENSORS), TENSORS.items())
    (file,) = tmp_path.iterdir()
    found = load_file(file)
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    again = SafetensorsFolder(tmp_path)
    assert again.shapes() == {name: tuple(tensor.shape) for name, tensor in TENSORS.items()}
    assert torch.equal(again.tensor("d"), TENSORS["d"])


def test_tensors_are_asked_for_one_at_a_time(tmp_path):
    written = []

    def stream():
        for name, tensor in TENSORS.items():
            written.append((tmp_path / SINGLE).stat().st_size)
            yield name, tensor

    big = {name: torch.zeros(1 << 16) for name in "abcd"}
    write(tmp_path, layout(big), ((name, big[name]) for (name, _) in stream()))
    assert written == sorted(set(written)), "all were taken before the first was written"


def test_shards_are_cut_by_size_and_named_in_an_index(tmp_path):
    tensors = {f"t{i}": torch.full((10,), float(i)) for i in range(5)}  # 40 bytes each
    write(tmp_path, layout(tensors), tensors.items(), shard_bytes=100)
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)
    ]
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"] == {"total_size": 200}
    assert index["weight_map"]["t2"] == "model-00002-of-00003.safetensors"
    assert torch.equal(SafetensorsFolder(tmp_path).tensor("t4"), tensors["t4"])


def test_a_tensor_larger_than_a_shard_has_its_own(tmp_path):
    tensors = {"small": torch.zeros(1), "large": torch.zeros(100), "last": torch.zeros(1)}
    write(tmp_path, layout(tensors), tensors.items(), shard_bytes=50)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3


def test_tensors_in_another_order_than_the_header_are_a_mistake(tmp_path):
    with pytest.raises(ValueError, match="expected the tensor a, got d"):
        write(tmp_path, layout(TENSORS), reversed(TENSORS.items()))
    with pytest.raises(ValueError, match="shorter"):
        write(tmp_path, layout(TENSORS), [])


def shards(folder: Path, weight_map: object) -> Path:
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "../secret.safetensors",
        "/etc/passwd",
        "/secret.safetensors",
        "..\\secret.safetensors",
        "C:secret.safetensors",
        "sub/model.safetensors",
        "model.bin",
        "",
        ".safetensors/",
        7,
        None,
        ["model.safetensors"],
    ],
)
def test_a_shard_name_cannot_leave_the_folder(name, tmp_path):
    folder = tmp_path / "inner"
    folder.mkdir()
    save_file({"a": torch.ones(1)}, tmp_path / "secret.safetensors")
    with pytest.raises(LuthierError, match=r"not the name of a \.safetensors file in this folder"):
        SafetensorsFolder(shards(folder, {"a": name}))


@pytest.mark.parametrize("weight_map", [None, [], {}, "model", 3])
def test_an_index_without_a_map_is_refused(weight_map, tmp_path):
    with pytest.raises(LuthierError, match="no weight_map"):
        SafetensorsFolder(shards(tmp_path, weight_map))


def test_a_missing_shard_and_a_doubled_tensor_are_named(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "one.safetensors")
    shards(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    with pytest.raises(LuthierError, match=r"two\.safetensors is missing"):
        SafetensorsFolder(tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / "two.safetensors")
    with pytest.raises(LuthierError, match="tensor 'a' is in two files"):
        SafetensorsFolder(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]", "nul", "[" * 100_000, '{"weight_map": {"a": "\\ud800.safetensors"}}'])
def test_an_index_that_is_no_index_is_refused(text, tmp_path):
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(LuthierError, match=INDEX):
        SafetensorsFolder(tmp_path)


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 20, -1])
def test_a_truncated_file_is_named(keep, tmp_path):
    write(tmp_path, layout(TENSORS), TENSORS.items())
    path = tmp_path / SINGLE
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(LuthierError, match=rf"{SINGLE} cannot be read, it is truncated"):
        SafetensorsFolder(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder, and the bytes of its file."""
    folder = tmp_path_factory.mktemp("whole")
    write(folder, layout(TENSORS), TENSORS.items())
    return folder, (folder / SINGLE).read_bytes()


@settings(max_examples=100, deadline=None)
@given(place=st.integers(0, 300), bytes_=st.binary(min_size=1, max_size=9))
def test_a_file_with_foreign_bytes_opens_or_is_a_clear_error(place, bytes_, whole):
    folder, content = whole
    path = folder / SINGLE
    path.write_bytes(content[:place] + bytes_ + content[place + len(bytes_) :])
    try:
        weights = SafetensorsFolder(folder)
        for name, shape in weights.shapes().items():
            assert tuple(weights.tensor(name).shape) == shape
    except LuthierError:
        pass
