"""Memory that is left on a device, so that what would not fit is refused with its size and not killed half way."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

from luthier.errors import LuthierError

CGROUP = Path("/sys/fs/cgroup")


def check_fits(nbytes: int, device: torch.device, what: str, way_out: str) -> None:
    """Raise a LuthierError with both numbers where the device has less memory left than `what` needs."""
    left = free_memory(device)
    if left is not None and nbytes > left:
        raise LuthierError(f"{what} {gigabytes(nbytes)} of memory, and {gigabytes(left)} are free: {way_out}")


def gigabytes(nbytes: int) -> str:
    """A size for people."""
    return f"{nbytes / 1e9:,.1f} GB"


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be taken on a device; of a CPU, what its container or limits leave. None: not known."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    limits = [psutil.virtual_memory().available, of_the_container(), of_the_process()]
    return int(min(left for left in limits if left is not None))


def of_the_container() -> int | None:
    """What a control group leaves, of its second version. (What its files are cached with counts as used.)"""
    try:
        limit = (CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((CGROUP / "memory.current").read_text(encoding="ascii"))
        kinds = dict(line.split() for line in (CGROUP / "memory.stat").read_text(encoding="ascii").splitlines())
        return max(0, int(limit) - used + int(kinds.get("inactive_file", 0)))
    except (OSError, ValueError):  # no such file, or no limit: "max"
        return None


def of_the_process() -> int | None:
    """What `ulimit -v` leaves."""
    if not hasattr(psutil, "RLIMIT_AS"):  # Linux alone has it
        return None
    process = psutil.Process()
    limit, _ = process.rlimit(psutil.RLIMIT_AS)
    return max(0, int(limit) - int(process.memory_info().vms)) if limit > 0 else None
