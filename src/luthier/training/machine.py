"""Properties of the machine: device, fast dtypes, speed, compiler."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
import time

import torch

from luthier.errors import LuthierError

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h


def choose_device(name: str = "auto") -> torch.device:
    """Select cuda, then mps, then cpu; or the named device. Raises a LuthierError if it is not available."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, available in there.items() if available)
    if not there.get(name, False):
        known = ", ".join(device for device, available in there.items() if available)
        raise LuthierError(f"device {name} is not available: this machine has {known}")
    return torch.device(name)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device has hardware for bfloat16 matrix products."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(unit, False) for unit in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def has_compiler(device: torch.device) -> bool:
    """Whether torch.compile can run: on a CPU it needs a C++ compiler, $CXX or the platform's default."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    return device.type != "cpu" or shutil.which(os.environ.get("CXX", usual)) is not None


def keep_freed_memory() -> None:
    """Make glibc keep freed memory instead of returning it to the system: saves a fifth of a training step on Linux
    CPUs.

    A step frees and reallocates hundreds of megabytes, which the system would map and clear page by page each time.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library: no effect
            mallopt = ctypes.CDLL("libc.so.6").mallopt
            mallopt(M_MMAP_MAX, 0)
            mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
            mallopt(M_TOP_PAD, 64 * 2**20)


def matrix_product_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """Measured peak speed: FLOP/s of a large square matrix product, the best of several."""
    size = 8192 if device.type == "cuda" else 2048
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(size, size, generator=generator).to(device, dtype)
    best, end = float("inf"), time.perf_counter() + seconds
    (a @ a).sum().item()  # warm-up
    while time.perf_counter() < end or best == float("inf"):  # at least once, however busy the machine
        start = time.perf_counter()
        product = a @ a
        synchronize(device)
        best = min(best, time.perf_counter() - start)
        del product
    return 2 * size**3 / best


def synchronize(device: torch.device) -> None:
    """Wait for the device to finish, for correct timing."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
