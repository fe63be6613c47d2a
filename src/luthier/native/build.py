"""Compiling step.cpp: once a machine, in some seconds, kept in the user's cache folder."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

from luthier.errors import LuthierError
from luthier.native import layout

SOURCE = Path(__file__).with_name("step.cpp")
SOURCES = (SOURCE, *sorted(SOURCE.parent.glob("*.h")))
# named one by one: what "native" builds on one machine may not run on another that shares the folder
FLAGS = (
    "-O3", "-std=c++20", "-fPIC", "-shared", "-fopenmp", "-ffp-contract=fast", "-fno-math-errno",
    "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16", "-mavx512vbmi", "-mavx2", "-mfma", "-mbmi2",
)  # fmt: skip
INSTRUCTIONS = ("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl", "avx512_bf16", "avx512_vbmi")
SECONDS = 120  # that a compiler may take


@cache
def library() -> ctypes.CDLL | None:
    """The compiled step; None where the processor or a compiler is missing. The first call may compile it."""
    capabilities = torch.cpu.get_capabilities()
    if os.name != "posix" or platform.machine() not in ("x86_64", "AMD64"):
        return None
    if not all(capabilities.get(name, False) for name in INSTRUCTIONS):
        return None
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    if compiler is None:
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):  # a full disk, an old compiler: it goes without
        return checked(ctypes.CDLL(str(built(compiler))))
    return None


def checked(compiled: ctypes.CDLL) -> ctypes.CDLL:
    """The library, once its structures are Python's. Raises a LuthierError that names the first that differs."""
    compiled.layout.restype = ctypes.c_char_p
    found = layout.difference(compiled.layout().decode())
    if found is not None:
        raise LuthierError(f"the compiled step does not fit this version of Luthier: {found}")
    compiled.step.argtypes, compiled.step.restype = [ctypes.POINTER(layout.Call)], None
    return compiled


def built(compiler: str) -> Path:
    """The compiled file, named by what it is made of."""
    folder = cache_folder()
    made_of = b"".join(source.read_bytes() for source in SOURCES) + " ".join(FLAGS).encode()
    path = folder / f"step-{hashlib.sha256(made_of).hexdigest()[:16]}.so"
    if not path.exists():
        handle, name = tempfile.mkstemp(suffix=".so", dir=folder)  # two processes may compile at once
        os.close(handle)
        try:
            command = [compiler, *FLAGS, str(SOURCE), "-o", name]
            # the user's own compiler, on our own file
            subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)  # noqa: S603
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
    return path


def cache_folder() -> Path:
    """A folder of the user's own: what others can write is not loaded as a program. Raises an OSError."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "luthier"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(f"{folder} can be written by others")
    return folder
