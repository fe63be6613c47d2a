"""Compiling step.cpp: once a machine, in some seconds, kept in the user's cache folder.

What lies in that folder is loaded as a program. So it is loaded only where it is a file of the user's own, that others
cannot write, and holds what was written: a digest stands at its end. Anything else there is built anew.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
from functools import cache
from pathlib import Path

import torch

from luthier.files import user_folders
from luthier.files.sync import sync
from luthier.files.unfinished import unfinished
from luthier.native import layout

SOURCE = Path(__file__).with_name("step.cpp")
SOURCES = (SOURCE, *sorted(SOURCE.parent.glob("*.h")))
# named one by one: what "native" builds on one machine may not run on another that shares the folder
FLAGS = (
    "-O3", "-std=c++20", "-fPIC", "-shared", "-fopenmp", "-ffp-contract=fast", "-fno-math-errno",
    "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16", "-mavx512vnni", "-mavx2", "-mfma", "-mbmi2",
    "-mf16c",
)  # fmt: skip
INSTRUCTIONS = ("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl", "avx512_bf16", "avx512_vnni")
SECONDS = 120  # that a compiler may take
MARK = b"\nluthier sha256 "  # stands after the library, before its digest: a loader does not look beyond its sections
LARGEST = 64 * 2**20  # bytes of a library
BUILDING = "step"  # hidden folders of this name hold a compiler's files


class Unavailable(Exception):  # noqa: N818 - not an error: models are computed by PyTorch then
    """Why there is no compiled step on this machine: one line."""


def library() -> ctypes.CDLL:
    """The compiled step. The first call may compile it. Raises Unavailable."""
    found = library_or_reason()
    if isinstance(found, str):
        raise Unavailable(found)
    return found


def has_library() -> bool:
    """Whether there is a compiled step. The first call may compile it."""
    return not isinstance(library_or_reason(), str)


@cache
def library_or_reason() -> ctypes.CDLL | str:
    """The library, or why there is none. Kept, so that what failed is not tried again at each model."""
    capabilities = torch.cpu.get_capabilities()
    if os.name != "posix" or platform.machine() not in ("x86_64", "AMD64"):
        return f"it is for Linux on x86-64, and this is {platform.system()} on {platform.machine()}"
    if lacking := [name for name in INSTRUCTIONS if not capabilities.get(name, False)]:
        return f"this processor has no {', '.join(lacking)}"
    try:
        return load(kept())
    except Unavailable as reason:
        return str(reason)
    except OSError as error:  # a full disk, a folder that nobody may write, or one whose files may not be run
        return f"the compiled library cannot be kept or loaded: {error}"


def load(path: Path) -> ctypes.CDLL:
    """Load a library whose structures are Python's. Raises an OSError, or Unavailable for other structures."""
    return checked(ctypes.CDLL(str(path)))


def checked(compiled: ctypes.CDLL) -> ctypes.CDLL:
    """The library, once its structures are Python's. Raises Unavailable, which names the first that differs."""
    compiled.layout.restype = ctypes.c_char_p
    found = layout.difference(compiled.layout().decode())
    if found is not None:
        raise Unavailable(f"the compiled library is not of this version of Luthier: {found}")
    matrix, pointer, count = ctypes.POINTER(layout.Matrix), ctypes.c_void_p, ctypes.c_int64
    compiled.step.argtypes, compiled.step.restype = [ctypes.POINTER(layout.Call)], None
    compiled.bytes_of.argtypes, compiled.bytes_of.restype = [count, count, count], count
    compiled.pack.argtypes, compiled.pack.restype = [matrix, pointer, count, count], None
    compiled.unpack.argtypes, compiled.unpack.restype = [matrix, pointer, count, pointer], None
    compiled.multiply_rows.argtypes = [matrix, pointer, count, pointer, count]
    compiled.multiply_rows.restype = None
    return compiled


def kept() -> Path:
    """The compiled file, named by what it is made of; built where there is none that is sound. One process builds, and
    others wait for it. Raises an OSError or Unavailable.
    """
    folder = cache_folder()
    made_of = b"".join(source.read_bytes() for source in SOURCES) + " ".join(FLAGS).encode()
    path = folder / f"step-{hashlib.sha256(made_of).hexdigest()[:16]}.so"
    if is_sound(path):
        return path
    command = compiler()
    from filelock import FileLock, Timeout  # 40 ms to import, and not needed once it is built

    try:
        with FileLock(folder / "building.lock", timeout=2 * SECONDS, mode=0o600):
            for left in folder.glob("tmp*.so"):  # of a process of version 0.1 that died
                left.unlink(missing_ok=True)
            if not is_sound(path):  # the one before us may have built it
                build(command, path)
    except Timeout:
        raise Unavailable("another process has been compiling it for minutes") from None
    if not is_sound(path):
        raise Unavailable(f"{path} does not hold what was written there")
    return path


def is_sound(path: Path) -> bool:
    """Whether a file is the user's own, can be written by nobody else, is no link, and ends with its own digest."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
            return False
        if status.st_size > LARGEST:
            return False
        content = file.read()
    program, mark, digest = content.rpartition(MARK)
    return bool(mark) and digest == hashlib.sha256(program).hexdigest().encode()


def build(command: list[str], path: Path) -> None:
    """Compile into a folder of our own, and put the file in its place in one go. Raises an OSError or Unavailable."""
    with unfinished(path.parent / BUILDING, folder=True, mode=0o700) as folder:
        made = folder / path.name
        # the user's own compiler, on our own file. Its temporary files lie in the folder, to be cleared with it
        try:
            result = subprocess.run(  # noqa: S603
                [*command, *FLAGS, str(SOURCE), "-o", str(made)], check=False, capture_output=True, timeout=SECONDS,
                env={**os.environ, "TMPDIR": str(folder)}, text=True, errors="replace",
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Unavailable(f"{command[0]} had not compiled it after {SECONDS} s") from None
        if result.returncode != 0:
            raise Unavailable(f"{command[0]} could not compile it: {first_error(result.stderr)}")
        content = made.read_bytes()
        signed = folder / "signed"
        signed.touch(mode=0o600)
        signed.write_bytes(content + MARK + hashlib.sha256(content).hexdigest().encode())
        sync(signed)
        signed.replace(path)
        with contextlib.suppress(OSError):  # a disk that cannot
            sync(path.parent)


def first_error(said: str) -> str:
    """The line of a compiler's output that says what is wrong."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else "it gave no reason")


def compiler() -> list[str]:
    """The command of a C++ compiler: $CXX, else g++ or clang++. Raises Unavailable."""
    named = os.environ.get("CXX", "")
    with contextlib.suppress(ValueError):  # a quotation mark without its other
        words = shlex.split(named)
        if words and shutil.which(words[0]):
            return words
    for usual in ("g++", "clang++"):
        if shutil.which(usual):
            return [usual]
    wanted = f"$CXX names {named}, which is not there, and there is" if named else "there is"
    raise Unavailable(f"{wanted} no g++ or clang++ to compile it with")


def cache_folder() -> Path:
    """A folder of the user's own: what others can write is not loaded. Raises Unavailable."""
    try:
        return user_folders.private(user_folders.caches())
    except OSError as error:
        raise Unavailable(f"the compiled library cannot be kept: {error}") from None
