"""The compiled library is loaded only where it is the user's own file with what was written into it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from luthier.native import build


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build.library_or_reason.cache_clear()
    yield tmp_path / "luthier"
    build.library_or_reason.cache_clear()


@pytest.fixture
def quick(folder, monkeypatch):
    """A compiler that takes no time: it copies a file, and counts its calls."""
    program, calls = folder.parent / "cc", folder.parent / "calls"
    program.write_text(
        f'#!/bin/sh\necho call >> {calls}\nfor last; do true; done\nprintf "compiled by %s" "$TMPDIR" > "$last"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("CXX", str(program))
    return lambda: calls.read_text().count("call") if calls.exists() else 0


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def sign_nothing(path):
    path.write_bytes(b"another program, with no digest")


def fifo(path):
    path.unlink()
    os.mkfifo(path)


DAMAGE = [
    truncate,
    zero,
    flip,
    link,
    sign_nothing,
    fifo,
    lambda path: path.chmod(0o722),
    lambda path: path.chmod(0o727),
]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda function: function.__name__)
def test_any_other_file_is_built_anew(folder, quick, damage):
    path = build.cached_library()
    assert build.cached_library() == path
    assert quick() == 1
    damage(path)
    assert not build.is_intact(path)
    assert build.cached_library() == path
    assert quick() == 2
    assert build.is_intact(path)
    assert not path.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"compiled by" in path.read_bytes()


def test_a_file_of_another_user_is_built_anew(folder, quick):
    path = build.cached_library()
    if os.getuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(path, 12345, -1)
    build.cached_library()
    assert quick() == 2
    assert path.stat().st_uid == 0


@pytest.mark.slow
def test_the_real_library_cut_short_does_not_end_the_next_process(monkeypatch, tmp_path):
    if isinstance(reason := build.library_or_reason(), str):
        pytest.skip(reason)
    real = build.cached_library()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = build.cache_folder() / real.name
    shutil.copy(real, path)
    truncate(path)
    ask = [sys.executable, "-c", "from luthier.native import build; print(build.library_or_reason())"]
    assert "CDLL" in subprocess.run(ask, capture_output=True, text=True, check=True).stdout
    assert build.is_intact(path)


def test_what_a_dead_process_left_is_cleared_by_the_next_that_builds(folder, quick):
    build.cache_folder()
    for left in (".step.0123abcd.unfinished", ".step.456789ef.unfinished"):
        (folder / left).mkdir()
        (folder / left / "ccXXXX.s").write_text("assembly")
    (folder / "tmpabc.so").write_text("of version 0.1")
    (folder / "another.txt").write_text("not ours")
    path = build.cached_library()
    assert sorted(entry.name for entry in folder.iterdir()) == sorted([path.name, "another.txt", "building.lock"])


def test_two_processes_build_once_and_both_have_it(folder, tmp_path):
    count = tmp_path / "calls"
    slow = tmp_path / "slow"
    slow.write_text(f'#!/bin/sh\necho call >> {count}\nsleep 1\nfor last; do true; done\necho compiled > "$last"\n')
    slow.chmod(0o755)
    ask = [sys.executable, "-c", "from luthier.native import build; print(build.is_intact(build.cached_library()))"]
    both = [
        subprocess.Popen(ask, env={**os.environ, "CXX": str(slow)}, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    assert [process.communicate(timeout=120)[0].strip() for process in both] == ["True", "True"]
    assert count.read_text() == "call\n"


def test_a_folder_that_others_can_write_is_not_trusted(folder):
    found = build.cache_folder()
    assert found == folder
    assert folder.stat().st_mode & 0o077 == 0
    folder.chmod(0o777)
    with pytest.raises(build.Unavailable, match="can be written by others: chmod go-w"):
        build.cache_folder()


def test_a_relative_cache_folder_is_ignored(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.chdir(tmp_path)
    assert build.cache_folder() == tmp_path / ".cache" / "luthier"
    monkeypatch.setenv("HOME", "home")
    with pytest.raises(build.Unavailable, match="relative"):
        build.cache_folder()


def test_without_a_compiler_there_is_a_reason(folder, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(
        build.Unavailable, match=r"\$CXX names no-such-compiler, which is not there, and there is no g\+\+"
    ):
        build.cached_library()


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(folder, monkeypatch, tmp_path):
    program = tmp_path / "cc"
    program.write_text(
        "#!/bin/sh\necho 'step.cpp: In function:' >&2\necho 'step.cpp:3: error: no such thing' >&2\nexit 1\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("CXX", str(program))
    with pytest.raises(build.Unavailable, match=r"could not compile it: step.cpp:3: error: no such"):
        build.cached_library()
    assert [entry.name for entry in folder.iterdir()] == ["building.lock"]


def test_a_folder_that_cannot_be_made_is_a_reason(folder, monkeypatch):
    Path(folder).write_text("a file in its place")
    reason = build.library_or_reason()
    assert isinstance(reason, str)
    assert "processor" in reason or "it is for" in reason or "cannot be kept" in reason
