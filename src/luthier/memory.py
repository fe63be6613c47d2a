"""Memory of the machine, a container, the process and a device: how much there is, is free, and was used at most.

All sizes are in bytes. A process is limited by `ulimit -v`, a container by its Linux control group (cgroup, version 1
or 2) and the groups around it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from luthier.errors import LuthierError

if TYPE_CHECKING:
    import torch

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
STATUS, STATM = Path("/proc/self/status"), Path("/proc/self/statm")
UNLIMITED = 2**60  # version 1 says "no limit" as a number near 2^63


class Group(NamedTuple):
    """What a control group may use, and uses without the files that the system caches for it and would give up."""

    limit: int
    used: int


def check_fits(nbytes: int, device: torch.device, what: str, way_out: str) -> None:
    """Raise a LuthierError with both sizes if `nbytes`, for `what`, exceed the device's free memory."""
    left = free_memory(device)
    if left is not None and nbytes > left:
        raise LuthierError(f"{what} {gigabytes(nbytes)} of memory, and {gigabytes(left)} are free: {way_out}")


def gigabytes(nbytes: int) -> str:
    """A size for people."""
    return f"{nbytes / 1e9:,.1f} GB"


def total_memory(device: torch.device, processes: int = 1) -> int:
    """The memory that this process can have on a device; for a CPU, its share where several `processes` use it."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory)
    import psutil

    limits = [psutil.virtual_memory().total, *(group.limit for group in groups()), process_limit()]
    return min(int(limit) for limit in limits if limit is not None) // processes


def free_memory(device: torch.device) -> int | None:
    """The memory of a device that can still be taken; for a CPU, within all limits. None if unknown."""
    if device.type == "cuda":
        import torch

        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    if device.type != "cpu":
        return None
    import psutil

    left = [psutil.virtual_memory().available, *(max(0, group.limit - group.used) for group in groups())]
    limit = process_limit()
    if limit is not None:
        left.append(max(0, limit - process_size()))
    return int(min(left))


def peak_memory(device: torch.device) -> int:
    """The most memory that this process has held: on a GPU allocated, else resident. 0 if unknown."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    try:  # getrusage would count what the process was before exec, too: its parent
        [line] = [line for line in STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(getattr(psutil.Process().memory_info(), "peak_wset", 0))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def process_limit() -> int | None:
    """The address space that this process may use (`ulimit -v`); None if unlimited."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def process_size() -> int:
    """The address space that this process uses. Imports nothing on Linux: it is asked when memory has run out."""
    try:
        return int(STATM.read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        import psutil

        return int(psutil.Process().memory_info().vms)


def groups() -> Iterator[Group]:
    """The control groups that limit this process's memory: its own, and those that it lies in."""
    try:
        lines = OWN_CGROUPS.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):  # not Linux
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, place = rest.partition(":")
        if controllers == "":  # version 2
            yield from _limits(CGROUPS, place, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
            yield from _limits(CGROUPS / "memory", place, *names)


def _limits(root: Path, place: str, limit: str, used: str, cached: str) -> Iterator[Group]:
    """A group's limit and those of its parents. In a container `place` may be the host's: the root is then its own."""
    own = root / place.strip("/")
    for folder in [own, *(parent for parent in own.parents if parent.is_relative_to(root))]:
        try:
            most = int((folder / limit).read_text(encoding="ascii"))
            now = int((folder / used).read_text(encoding="ascii"))
            kinds = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
            if most < UNLIMITED:
                yield Group(most, now - int(kinds.get(cached, 0)))
        except (OSError, ValueError):  # no such folder here, or no limit: "max"
            continue
