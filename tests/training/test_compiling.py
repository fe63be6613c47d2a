"""Folders for torch.compile, and why it fails."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from luthier.training.compiling import failure, own_folder


def test_the_folder_is_in_the_cache_of_the_user_and_nobody_elses(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert own_folder() == tmp_path / "luthier" / "compile"
    assert (tmp_path / "luthier" / "compile").stat().st_mode & 0o077 == 0


def test_a_folder_that_others_can_write_or_with_a_space_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    expected = tmp_path / "tmp" / f"luthier-{os.getuid()}" / "compile"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a b"))
    assert own_folder() == expected
    assert not (tmp_path / "a b").exists()
    (tmp_path / "shared" / "luthier").mkdir(parents=True)
    (tmp_path / "shared" / "luthier").chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    assert own_folder() == expected


def test_a_failure_is_what_the_compiler_said(tmp_path, monkeypatch):
    text = "CppCompileError: C++ compile error\n\nCommand:\ng++ x\n\nOutput:\nx.h:1:2: fatal error: no Python.h\nbye"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    assert failure(RuntimeError(text)) == "fatal error: no Python.h"
    assert failure(RuntimeError("one\ntwo")) == "one"
    assert failure(RuntimeError()) == "RuntimeError"
    monkeypatch.setattr("tempfile.tempdir", "/tmp/a b")
    assert "'/tmp/a b' has a space" in failure(RuntimeError(text))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compiling_works_with_a_space_in_the_path_of_temporary_files(tmp_path):
    (tmp_path / "a b").mkdir()
    code = """
import torch, torch._inductor.runtime.cache_dir_utils
from luthier.training.compiling import use_own_folders
torch._inductor.runtime.cache_dir_utils.cache_dir()  # as an evaluation before the first step asks for it
use_own_folders()
print(torch.compile(lambda x: x.cos() + 1)(torch.zeros(8)).sum().item())
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path / "a b"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "16.0\n", done.stderr[-2000:]
    names = {path.name for path in (tmp_path / "cache" / "luthier" / "compile").iterdir()}
    assert names == {"kept"}, "temporary files stayed"
