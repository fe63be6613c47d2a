"""What the machine offers: its device, its number types, its speed, and a compiler."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
import time
from pathlib import Path

import psutil
import torch

from luthier.errors import LuthierError

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # v2, v1
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h


def choose_device(name: str = "auto") -> torch.device:
    """cuda, then mps, then cpu; or the one that is named. A LuthierError when it is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, available in there.items() if available)
    if not there.get(name, False):
        known = ", ".join(device for device, available in there.items() if available)
        raise LuthierError(f"device {name} is not to be had here: this machine has {known}")
    return torch.device(name)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether products of bfloat16 matrices run on units made for them."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(unit, False) for unit in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def has_compiler(device: torch.device) -> bool:
    """Whether torch.compile finds what it needs: on a CPU that is a C++ compiler, $CXX or the one it looks for."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    return device.type != "cpu" or shutil.which(os.environ.get("CXX", usual)) is not None


def keep_freed_memory() -> None:
    """Ask glibc to keep what is freed rather than hand it back to the system: a fifth of a training step on Linux CPUs.

    A step frees and takes hundreds of megabytes again; each time the system would map and clear them page by page.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library: nothing is lost
            mallopt = ctypes.CDLL("libc.so.6").mallopt
            mallopt(M_MMAP_MAX, 0)
            mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
            mallopt(M_TOP_PAD, 64 * 2**20)


def matrix_product_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """The machine's speed limit: FLOP/s of a large square matrix product, the best of several."""
    size = 8192 if device.type == "cuda" else 2048
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(size, size, generator=generator).to(device, dtype)
    best, end = float("inf"), time.perf_counter() + seconds
    (a @ a).sum().item()  # the first call prepares
    while time.perf_counter() < end or best == float("inf"):  # once at least, however busy the machine
        start = time.perf_counter()
        product = a @ a
        synchronize(device)
        best = min(best, time.perf_counter() - start)
        del product
    return 2 * size**3 / best


def memory_bandwidth(seconds: float = 0.3) -> float:
    """Bytes/s of reading the processor's memory: the best of several sums over more than the caches hold."""
    numbers = torch.ones(2**26, dtype=torch.int32)  # 256 MB
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        numbers.sum(dtype=torch.int32)
        best = min(best, time.perf_counter() - start)
    return numbers.nbytes / best


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a clock tells the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def available_memory(device: torch.device) -> int:
    """Bytes of memory that the device has; of a CPU, those of the container or process."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    found = [psutil.virtual_memory().total]
    for path in CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # another version of cgroups, or "max": no limit
            found.append(int(path.read_text(encoding="ascii")))
    if hasattr(psutil, "RLIMIT_AS"):  # Linux
        limit, _ = psutil.Process().rlimit(psutil.RLIMIT_AS)
        found.append(limit if limit > 0 else found[0])
    return int(min(found))


def peak_memory(device: torch.device) -> int:
    """The most bytes this process has held, on the device or, on a CPU, in all."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
