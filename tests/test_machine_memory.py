"""Memory is what the tightest of machine, containers and process leave."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest
import torch

from luthier import memory

CPU = torch.device("cpu")
GIB = 2**30


@pytest.fixture
def system(tmp_path, monkeypatch):
    """The files of a Linux system: `group` writes those of one control group."""
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "OWN_CGROUPS", tmp_path / "own")
    (tmp_path / "own").write_text("")
    monkeypatch.setattr(
        psutil, "virtual_memory", lambda: type("Machine", (), {"total": 64 * GIB, "available": 50 * GIB})
    )
    monkeypatch.setattr(memory, "process_limit", lambda: None)
    return tmp_path


def group(system, place, limit, used, cached, version):
    names = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
             2: ("memory.max", "memory.current", "inactive_file")}[version]  # fmt: skip
    folder = system / "cgroup" / ("memory" if version == 1 else "") / place
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"cache 1\n{names[2]} {cached}\n")


OWN = {1: "9:name=systemd:/\n4:cpu,memory:/a/b\n0::/\n", 2: "0::/a/b\n"}


def test_without_a_limit_it_is_the_machines(system):
    (system / "own").write_text(OWN[2])
    group(system, "a/b", "max", 3 * GIB, 0, 2)
    assert memory.total_memory(CPU) == 64 * GIB
    assert memory.free_memory(CPU) == 50 * GIB
    (system / "own").write_text(OWN[1])
    group(system, "a/b", 9223372036854771712, 3 * GIB, 0, 1)
    assert memory.total_memory(CPU) == 64 * GIB


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("place", ["", "a", "a/b"])
def test_a_group_limits_what_lies_in_it(system, version, place):
    (system / "own").write_text(OWN[version])
    group(system, "a/b", 40 * GIB if version == 1 else "max", 5 * GIB, 0, version)
    group(system, place, 8 * GIB, 5 * GIB, GIB, version)
    assert memory.total_memory(CPU) == 8 * GIB
    assert memory.total_memory(CPU, processes=4) == 2 * GIB
    assert memory.free_memory(CPU) == 4 * GIB  # cached files are given up


@pytest.mark.parametrize("version", [1, 2])
def test_in_a_container_the_group_is_named_as_the_host_names_it(system, version):
    (system / "own").write_text(OWN[version])  # /a/b is not in the container's own tree
    group(system, "", 8 * GIB, 9 * GIB, 0, version)
    assert memory.total_memory(CPU) == 8 * GIB
    assert memory.free_memory(CPU) == 0


def test_another_groups_limit_is_not_ours(system):
    (system / "own").write_text(OWN[2])
    group(system, "a/c", GIB, 0, 0, 2)
    assert memory.total_memory(CPU) == 64 * GIB


def test_the_limit_of_the_process_holds(system, monkeypatch):
    monkeypatch.setattr(memory, "process_limit", lambda: 3 * GIB)
    monkeypatch.setattr(memory, "process_size", lambda: GIB)
    assert memory.total_memory(CPU) == 3 * GIB
    assert memory.free_memory(CPU) == 2 * GIB


PEAK = """
from types import SimpleNamespace
from luthier.memory import peak_memory
print(peak_memory(SimpleNamespace(type="cpu")), flush=True)
"""
PARENT = f"""
import subprocess, sys
held = bytearray(700_000_000)
exec({PEAK!r})
subprocess.run([sys.executable, "-c", {PEAK!r}], check=True)
"""


def test_the_peak_is_this_processs_own():
    out = subprocess.run([sys.executable, "-c", PARENT], capture_output=True, text=True, check=True).stdout
    parent, child = map(int, out.split())
    assert parent > 700_000_000
    assert child < 200_000_000 or sys.platform != "linux"


def test_the_process_has_a_size():
    assert memory.process_size() > 2**20
