"""Out of memory is one line, whatever ends the process."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from luthier.cli.memory import explanation, is_memory_error

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v is the system's")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:128] . DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("can't start new thread"),
    ],
)
def test_what_libraries_raise_without_memory_is_recognized(error):
    assert is_memory_error(error)


def test_other_errors_are_not():
    assert not is_memory_error(ValueError("3 is too much"))
    assert not is_memory_error(OSError(errno.ENOSPC, "No space left on device"))


def test_what_was_asked_for_is_said():
    error = RuntimeError("can't allocate memory: you tried to allocate 40000000000 bytes. Error code 12")
    assert "(40,000.0 MB more were asked for)" in explanation(error)


@pytest.mark.parametrize("size", [200_000, 400_000])  # kB: importing torch takes more than either
@pytest.mark.parametrize("verb", ["generate no-run x", "verify no-run", "train x.txt", "plan", "figures"])
def test_each_verb_says_memory_under_a_limit(verb, size, tmp_path):
    (tmp_path / "x.txt").write_text("a text " * 200, encoding="utf-8")
    command = f"ulimit -v {size}; {sys.executable} -m luthier {verb}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    if done.returncode == 127:  # glibc ends a process that cannot load a library's thread-local data by itself
        assert done.stderr == "cannot allocate memory for thread-local data: ABORT\n"
    else:
        assert done.returncode == 1
        assert done.stderr.startswith("luthier: not enough memory")
    assert len(done.stderr.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.txt"]


@pytest.mark.parametrize(
    ("end", "code", "line"),
    [
        ("os.abort()", 1, "luthier: not enough memory"),
        ("print('memory allocation of 5 bytes failed', file=sys.stderr), os.abort()", 1, "luthier: not enough memory"),
        ("print('OpenBLAS error: gave up', file=sys.stderr), sys.exit(1)", 1, "luthier: not enough memory"),
        ("sys.exit(0)", 0, ""),
        ("os.kill(os.getpid(), 9)", 137, ""),
    ],
)
def test_a_library_that_ends_the_process_is_put_into_words(end, code, line):
    program = (
        "import os, sys\nfrom luthier.cli.memory import guarded\n"
        f"def act():\n    try:\n        {end}\n    except SystemExit as end:\n        return end.code\n"
        "sys.exit(guarded(act))"
    )
    done = subprocess.run(
        ["bash", "-c", 'ulimit -v 4000000 -c 0; "$0" -c "$1"', sys.executable, program], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.partition(",")[0].strip()) == (code, line)
