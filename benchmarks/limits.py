"""What the machine can do at most: the last rows of every benchmark's table."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from luthier.training.machine import matrix_product_peak

CPU = torch.device("cpu")
BFLOAT16_PRODUCTS = "products, bfloat16, GFLOP/s"
PRODUCTS_8, MEMORY = "products, 8 bits, GOP/s", "reading memory, GB/s"


def product_peak_of_8_bits(seconds: float = 0.3) -> float:
    """Operations/s of a large product of whole numbers of 8 bits, by PyTorch; the best of several."""
    size = 2048
    a = torch.randint(-127, 127, (size, size), dtype=torch.int8, generator=torch.Generator().manual_seed(0))
    best, end = float("inf"), time.perf_counter() + seconds
    torch._int_mm(a, a)  # the first call prepares
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        torch._int_mm(a, a)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def memory_bandwidth(seconds: float = 0.3) -> float:
    """Bytes/s of reading main memory: the best of several sums over an array larger than the caches."""
    numbers = torch.ones(2**26, dtype=torch.int32)  # 256 MB
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        numbers.sum(dtype=torch.int32)
        best = min(best, time.perf_counter() - start)
    return numbers.nbytes / best


LIMITS: dict[str, Callable[[], float]] = {
    "products, float32, GFLOP/s": lambda: matrix_product_peak(CPU, torch.float32) / 1e9,
    BFLOAT16_PRODUCTS: lambda: matrix_product_peak(CPU, torch.bfloat16) / 1e9,
    MEMORY: lambda: memory_bandwidth() / 1e9,
}
OF_GENERATION = {**LIMITS, PRODUCTS_8: lambda: product_peak_of_8_bits() / 1e9}
