"""PyTorch's own files: what torch.save writes is read and written, and nothing in them is ever executed."""

from __future__ import annotations

import io
import os
import pickle
import resource
import zipfile
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.errors import LuthierError
from luthier.formats import pth_files
from luthier.formats.pth_files import PthFile, write

fuzz = settings(max_examples=150, deadline=None, derandomize=True, database=None)
WEIGHTS = {
    "a.weight": torch.arange(12.0).view(3, 4),
    "b": torch.arange(5, dtype=torch.bfloat16),
    "c": torch.tensor(2.5, dtype=torch.float64),
    "d": torch.ones(2, 3, dtype=torch.float16),
    "empty": torch.ones(0, 4),
}


def saved(folder: Path, content, name: str = "x.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def with_pickle(folder: Path, content: bytes, data: bytes = bytes(64), **extra: bytes) -> Path:
    """A file as torch.save lays it out, with this pickle and one storage."""
    path = folder / "x.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", content)
        archive.writestr("x/byteorder", "little")
        archive.writestr("x/data/0", data)
        archive.writestr("x/version", "3\n")
        for name, value in extra.items():
            archive.writestr(f"x/{name}", value)
    return path


def assert_same(found: PthFile, weights) -> None:
    assert found.shapes() == {name: tuple(weight.shape) for name, weight in weights.items()}
    for name, weight in weights.items():
        assert found.tensor(name).dtype == weight.dtype
        assert torch.equal(found.tensor(name), weight), name


def test_a_state_dict_is_read(tmp_path):
    assert_same(PthFile(saved(tmp_path, WEIGHTS)), WEIGHTS)
    assert_same(PthFile(saved(tmp_path, OrderedDict(WEIGHTS))), WEIGHTS)


def test_views_parameters_and_shared_tensors_are_read(tmp_path):
    base = torch.arange(24.0).view(4, 6)
    weights = {"w": torch.nn.Parameter(base), "transposed": base.T, "part": base[1:3, 2:4], "again": base}
    assert_same(PthFile(saved(tmp_path, weights)), weights)
    assert not PthFile(tmp_path / "x.pth").tensor("w").requires_grad


def test_tensors_are_mapped_and_the_file_is_never_changed(tmp_path):
    path = saved(tmp_path, {"w": torch.ones(1000)})
    before = path.read_bytes()
    PthFile(path).tensor("w").zero_()
    assert path.read_bytes() == before


def test_integers_beside_the_weights_are_no_problem(tmp_path):
    weights = {"w": torch.ones(2), "mask": torch.ones(2, 2).bool(), "steps": torch.tensor(7)}
    assert_same(PthFile(saved(tmp_path, weights)), weights)


@pytest.mark.parametrize("key", ["model_state_dict", "state_dict", "model"])
def test_the_weights_are_found_within_a_checkpoint(key, tmp_path):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))])
    content = {"epoch": 1, key: WEIGHTS, "optimizer_state_dict": optimizer.state_dict(), "args": {"lr": 0.1, "n": None}}
    assert_same(PthFile(saved(tmp_path, content)), WEIGHTS)


def test_extra_state_is_left_out(tmp_path):
    assert_same(PthFile(saved(tmp_path, {**WEIGHTS, "x._extra_state": io.BytesIO(b"abc"), "y": None})), WEIGHTS)


def test_what_is_written_torch_reads(tmp_path):
    path = tmp_path / "consolidated.00.pth"
    write(path, {name: weight.to("meta") for name, weight in WEIGHTS.items()}, WEIGHTS.items())
    assert_same(PthFile(path), WEIGHTS)
    for mapped in (False, True):
        found = torch.load(path, weights_only=True, mmap=mapped)
        assert list(found) == list(WEIGHTS)
        assert all(torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    assert all(tensor.data_ptr() % 64 == 0 for tensor in found.values() if tensor.numel()), "not aligned"


def test_what_is_written_takes_one_tensor_at_a_time(tmp_path):
    alive = []

    def stream():
        for number in range(5):
            assert sum(map(bool, alive)) <= 1, "earlier tensors are still held"
            tensor = torch.full((10,), float(number))
            alive.append(_Alive(tensor))
            yield f"w{number}", tensor

    write(tmp_path / "x.pth", {f"w{number}": torch.empty(10, device="meta") for number in range(5)}, stream())
    assert torch.equal(PthFile(tmp_path / "x.pth").tensor("w4"), torch.full((10,), 4.0))


class _Alive:
    def __init__(self, tensor):
        import weakref

        self.reference = weakref.ref(tensor)

    def __bool__(self):
        return self.reference() is not None


class Evil:
    """What a pickle can do: anything."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("where", ["alone", "within", "beside the weights"])
def test_code_is_refused_by_name_and_not_executed(where, tmp_path):
    evil = Evil(os.mkdir, str(tmp_path / "executed"))
    content = {"alone": evil, "within": {"w": evil}, "beside the weights": {"model": WEIGHTS, "hook": evil}}[where]
    with pytest.raises(LuthierError, match=r"asks for '(posix|nt)\.mkdir'.*nothing was executed"):
        PthFile(saved(tmp_path, content))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "call",
    [
        b"c__builtin__\neval\nX\x04\0\0\0quit\x85R.",
        b"ctorch\nload\nX\x01\0\0\0x\x85R.",
        b"ctorch.storage\nUntypedStorage\n\x8a\x06\0\0\0\0\0\x01\x85R.",  # a terabyte
        b"c__builtin__\nbytearray\n\x8a\x06\0\0\0\0\0\x01\x85R.",
        b"ctorch\nTensor\n\x8a\x06\0\0\0\0\0\x01\x85R.",
        b"ctorch._utils\n_rebuild_sparse_tensor\n)R.",
    ],
)
def test_functions_beyond_plain_tensors_are_refused(call, tmp_path):
    with pytest.raises(LuthierError, match=r"asks for .*nothing was executed"):
        PthFile(with_pickle(tmp_path, b"\x80\x02" + call))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93.", "PROTO 4"),
        (b"\x80\x02U\x05posixU\x06system\x93.", "not written by torch.save"),
        (b"(iposix\nsystem\n.", "not written by torch.save"),
        (b"\x80\x02\xff", "pickle cannot be read"),
        (b"\x80\x02X\xff\xff\xff\xffabc.", "pickle cannot be read"),
        (b"", "pickle cannot be read"),
        (b"\x80\x02}", "pickle cannot be read"),
        (b"\x80\x02h\x07.", "pickle cannot be read"),
        (b"\x80\x02].", "contains a list instead of named tensors"),
        (b"\x80\x02}.", "contains no tensors"),
        (b"\x80\x02}X\x01\0\0\0aK\x07s.", "'a' is a int, not a named tensor"),
        (b"\x80\x02}K\x07K\x07s.", "7 is a int, not a named tensor"),
        (b"\x80\x02})" + b"\x85" * 100_000 + b"K\x07s.", "nested too deep"),
    ],
)
def test_other_pickles_say_what_is_wrong(content, complaint, tmp_path):
    with pytest.raises(LuthierError, match=rf"x\.pth.*{complaint}"):
        PthFile(with_pickle(tmp_path, content))


def tensor_pickle(shape, strides, offset=0, numbers=16, key="0", storage=torch.FloatStorage, names=("w",)) -> bytes:
    """The pickle of tensors over one storage, whatever they claim."""

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", storage, key, "cpu", numbers) if isinstance(value, Storage) else None

    class Claim:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Storage(), offset, shape, strides, False, OrderedDict())

    content = io.BytesIO()
    Pickler(content, 2).dump({name: Claim() for name in names})
    return content.getvalue()


@pytest.mark.parametrize(
    ("claims", "complaint"),
    [
        ({"shape": (2**40,), "strides": (1,)}, "damaged"),
        ({"shape": (2**62, 2**62), "strides": (1, 1)}, "damaged"),
        ({"shape": (-4,), "strides": (1,)}, "damaged"),
        ({"shape": (4, 4), "strides": (-1, 1)}, "damaged"),
        ({"shape": (4,), "strides": (1,), "offset": 13}, "damaged"),
        ({"shape": (4,), "strides": (1,), "offset": -1}, "damaged"),
        ({"shape": (4,), "strides": (1,), "offset": 2**62}, "damaged"),
        ({"shape": (4,), "strides": (1,), "key": "../../etc/passwd"}, "damaged"),
        ({"shape": (4,), "strides": (1,), "key": "1"}, "damaged"),
        ({"shape": (2**30, 2**20), "strides": (0, 0)}, "'w' claims more elements than the file contains"),
    ],
)
def test_tensors_that_claim_more_than_the_file_has_are_refused(claims, complaint, tmp_path):
    with pytest.raises(LuthierError, match=rf"x\.pth.*{complaint}"):
        PthFile(with_pickle(tmp_path, tensor_pickle(**claims)))


def test_tensors_that_share_their_numbers_again_and_again_are_refused(tmp_path):
    """Each alone is within the file; a model of them would not be."""
    names = [f"w{number}" for number in range(20)]
    content = tensor_pickle((10_000,), (1,), numbers=10_000, names=names)
    with pytest.raises(LuthierError, match="share storage"):
        PthFile(with_pickle(tmp_path, content, bytes(40_000)))


def test_what_claims_the_right_thing_is_read(tmp_path):
    data = torch.arange(16.0)
    path = with_pickle(tmp_path, tensor_pickle((4, 4), (4, 1)), data.numpy().tobytes())
    assert torch.equal(PthFile(path).tensor("w"), data.view(4, 4))


def test_files_of_other_kinds_are_refused(tmp_path):
    old = tmp_path / "old.pth"
    torch.save(WEIGHTS, old, _use_new_zipfile_serialization=False)
    with pytest.raises(LuthierError, match=r"old\.pth is not a file of weights.*older than PyTorch 1\.6"):
        PthFile(old)
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "folder.pth").mkdir()
    with zipfile.ZipFile(tmp_path / "zip.pth", "w") as archive:
        archive.writestr("readme", "x")
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}.")
        archive.writestr("x/data/0", bytes(10**7))
    with pytest.raises(LuthierError, match=r"text\.pth is not a file of weights"):
        PthFile(tmp_path / "text.pth")
    with pytest.raises(LuthierError, match=r"folder\.pth cannot be read"):
        PthFile(tmp_path / "folder.pth")
    with pytest.raises(LuthierError, match=r"missing\.pth cannot be read: No such file"):
        PthFile(tmp_path / "missing.pth")
    with pytest.raises(LuthierError, match=r"zip\.pth is a zip without a PyTorch pickle"):
        PthFile(tmp_path / "zip.pth")
    with pytest.raises(LuthierError, match=r"bomb\.pth is compressed"):
        PthFile(tmp_path / "bomb.pth")


@pytest.mark.parametrize("by", ["torch", "zipfile"])
def test_a_zip_of_too_many_entries_is_refused_before_they_are_in_memory(by, tmp_path, monkeypatch):
    path = saved(tmp_path, WEIGHTS) if by == "torch" else with_pickle(tmp_path, b"\x80\x02}.")
    with zipfile.ZipFile(path) as archive:
        size = path.stat().st_size - archive.start_dir
    assert size - 98 <= pth_files.directory_size(path) < size
    monkeypatch.setattr(pth_files, "MAX_DIRECTORY", 100)
    with pytest.raises(LuthierError, match="too many entries"):
        PthFile(path)


def test_a_program_of_torchscript_is_refused(tmp_path):
    path = with_pickle(tmp_path, tensor_pickle((4, 4), (4, 1)), **{"constants.pkl": b"\x80\x02)."})
    with pytest.raises(LuthierError, match=r"x\.pth"):
        PthFile(path)


def test_a_pickle_too_large_for_names_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pth_files, "MAX_PICKLE", 100)
    with pytest.raises(LuthierError, match="too large for names and shapes"):
        PthFile(saved(tmp_path, WEIGHTS))


@contextmanager
def address_space(more: int):
    """At most so many bytes more than now: what asks for them fails, and does not only look harmless."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + more, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def read_or_refuse(path: Path):
    try:
        found = PthFile(path)
        return {name: found.tensor(name).clone() for name in found.shapes()}
    except LuthierError:
        return None


@fuzz
@given(data=st.data())
def test_damaged_files_are_read_or_refused(tmp_path_factory, data):
    path = saved(tmp_path_factory.mktemp("pth"), {"model": WEIGHTS, "lr": 0.1})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    path.write_bytes(content)
    with address_space(2**30):
        read_or_refuse(path)


@fuzz
@given(data=st.data())
def test_damaged_pickles_in_whole_files_are_read_or_refused(tmp_path_factory, data):
    content = bytearray(tensor_pickle((4, 4), (4, 1)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with address_space(2**30):
        read_or_refuse(with_pickle(tmp_path_factory.mktemp("pth"), bytes(content)))


@fuzz
@given(
    shape=st.lists(st.integers(-1, 2**63 - 1) | st.integers(0, 20), max_size=4),
    strides=st.lists(st.integers(-1, 2**63 - 1) | st.integers(0, 20), max_size=4),
    offset=st.integers(-1, 2**63 - 1) | st.integers(0, 20),
    numbers=st.integers(-1, 2**63 - 1) | st.integers(0, 20),
)
def test_hostile_counts_take_no_memory(tmp_path_factory, shape, strides, offset, numbers):
    content = tensor_pickle(tuple(shape), tuple(strides), offset, numbers)
    with address_space(2**30):
        found = read_or_refuse(with_pickle(tmp_path_factory.mktemp("pth"), content))
    if found is not None:
        assert sum(tensor.nbytes for tensor in found.values()) <= 64
