"""Compile step.cpp once per machine (a few seconds) into the user's cache folder.

Files in that folder are executed. So a library is loaded only if it belongs to the user, others cannot write it, and it
ends with its own digest. Otherwise it is compiled again.
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
# explicit instead of -march=native: machines that share the cache folder may have different processors
FLAGS = (
    "-O3", "-std=c++20", "-fPIC", "-shared", "-fopenmp", "-ffp-contract=fast", "-fno-math-errno",
    "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16", "-mavx512vnni", "-mavx2", "-mfma", "-mbmi2",
    "-mf16c",
)  # fmt: skip
INSTRUCTIONS = ("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl", "avx512_bf16", "avx512_vnni")
SECONDS = 120  # limit of a compilation
DIGEST_MARK = b"\nluthier sha256 "  # between the library and its digest; loaders ignore what follows the sections
LARGEST = 64 * 2**20  # bytes of a library
BUILDING = "step"  # hidden folders of this name hold a compiler's files


class Unavailable(Exception):  # noqa: N818 - not an error: models are computed by PyTorch then
    """The reason why the compiled step is not available on this machine, in one line."""


def library() -> ctypes.CDLL:
    """The compiled step. The first call may compile it. Raises Unavailable."""
    found = library_or_reason()
    if isinstance(found, str):
        raise Unavailable(found)
    return found


def has_library() -> bool:
    """Whether the compiled step is available. The first call may compile it."""
    return not isinstance(library_or_reason(), str)


@cache
def library_or_reason() -> ctypes.CDLL | str:
    """The library, or the reason why it is not available. Cached, so that a failure is not repeated for each model."""
    capabilities = torch.cpu.get_capabilities()
    if os.name != "posix" or platform.machine() not in ("x86_64", "AMD64"):
        return f"it is for Linux on x86-64, and this is {platform.system()} on {platform.machine()}"
    if lacking := [name for name in INSTRUCTIONS if not capabilities.get(name, False)]:
        return f"this processor has no {', '.join(lacking)}"
    try:
        return load(cached_library())
    except Unavailable as reason:
        return str(reason)
    except OSError as error:  # a full disk, a folder that nobody may write, or one whose files may not be run
        return f"the compiled library cannot be kept or loaded: {error}"


def load(path: Path) -> ctypes.CDLL:
    """Load a library. Raises an OSError, or Unavailable if its structures differ from layout.py's."""
    return checked(ctypes.CDLL(str(path)))


def checked(compiled: ctypes.CDLL) -> ctypes.CDLL:
    """The library with argument types set. Raises Unavailable if its structures differ from layout.py's."""
    compiled.layout.restype = ctypes.c_char_p
    found = layout.difference(compiled.layout().decode())
    if found is not None:
        raise Unavailable(f"the compiled library is not of this version of Luthier: {found}")
    matrix, pointer, count = ctypes.POINTER(layout.Matrix), ctypes.c_void_p, ctypes.c_int64
    compiled.step.argtypes, compiled.step.restype = [ctypes.POINTER(layout.Call)], None
    compiled.packed_size.argtypes, compiled.packed_size.restype = [count, count, count], count
    compiled.pack.argtypes, compiled.pack.restype = [matrix, pointer, count, count], None
    compiled.dequantize.argtypes, compiled.dequantize.restype = [matrix, pointer, count, pointer], None
    compiled.multiply_rows.argtypes = [matrix, pointer, count, pointer, count]
    compiled.multiply_rows.restype = None
    return compiled


def cached_library() -> Path:
    """The path of the compiled library, named by the hash of its sources and flags; compiled if there is no intact one.
    One process compiles while others wait. Raises an OSError or Unavailable.
    """
    folder = cache_folder()
    inputs = b"".join(source.read_bytes() for source in SOURCES) + " ".join(FLAGS).encode()
    path = folder / f"step-{hashlib.sha256(inputs).hexdigest()[:16]}.so"
    if is_intact(path):
        return path
    command = compiler()
    from filelock import FileLock, Timeout  # 40 ms to import, and not needed once it is built

    try:
        with FileLock(folder / "building.lock", timeout=2 * SECONDS, mode=0o600):
            for left in folder.glob("tmp*.so"):  # of a process of version 0.1 that died
                left.unlink(missing_ok=True)
            if not is_intact(path):  # the one before us may have built it
                build(command, path)
    except Timeout:
        raise Unavailable("another process has been compiling it for minutes") from None
    if not is_intact(path):
        raise Unavailable(f"{path} does not hold what was written there")
    return path


def is_intact(path: Path) -> bool:
    """Whether a file belongs to the user, is not writable by others, is not a link, and ends with its own digest."""
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
    program, mark, digest = content.rpartition(DIGEST_MARK)
    return bool(mark) and digest == hashlib.sha256(program).hexdigest().encode()


def build(command: list[str], path: Path) -> None:
    """Compile in a temporary folder and move the library to `path` atomically. Raises an OSError or Unavailable."""
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
        signed.write_bytes(content + DIGEST_MARK + hashlib.sha256(content).hexdigest().encode())
        sync(signed)
        signed.replace(path)
        with contextlib.suppress(OSError):  # a disk that cannot
            sync(path.parent)


def first_error(output: str) -> str:
    """The first error line of a compiler's output."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else "it gave no reason")


def compiler() -> list[str]:
    """The command of a C++ compiler: $CXX, g++ or clang++. Raises Unavailable."""
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
    """The cache folder, which must belong to the user and not be writable by others. Raises Unavailable."""
    try:
        return user_folders.private(user_folders.caches())
    except OSError as error:
        raise Unavailable(f"the compiled library cannot be kept: {error}") from None
