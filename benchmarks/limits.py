"""What the machine can do at most: the last rows of every benchmark's table."""

from __future__ import annotations

from collections.abc import Callable

import torch

from luthier.training.machine import matrix_product_peak, memory_bandwidth

CPU = torch.device("cpu")
BFLOAT16_PRODUCTS = "products, bfloat16, GFLOP/s"
LIMITS: dict[str, Callable[[], float]] = {
    "products, float32, GFLOP/s": lambda: matrix_product_peak(CPU, torch.float32) / 1e9,
    BFLOAT16_PRODUCTS: lambda: matrix_product_peak(CPU, torch.bfloat16) / 1e9,
    "reading memory, GB/s": lambda: memory_bandwidth() / 1e9,
}
