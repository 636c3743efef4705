"""How much memory there is, how much was taken, and what a program asks of the C library about it."""

import ctypes
import os
import resource
import sys
from pathlib import Path

import torch

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Keep what is freed for the next step: to give it back and be given it anew, zeroed, takes a tenth of a step."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(TRIM_THRESHOLD, -1)
        mallopt(MMAP_MAX, 0)


def free_bytes(device: torch.device) -> int:
    """Memory of a device that programs can still take."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    told = Path("/proc/meminfo")
    if told.exists():
        lines = dict(line.split(":") for line in told.read_text().splitlines())
        return min(1024 * int(lines["MemAvailable"].split()[0]), _left_to_the_container())
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _left_to_the_container() -> int:
    """What a container's limit leaves, where there is one."""
    group = Path("/sys/fs/cgroup")
    try:
        return int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no such limit, or "max"
        return sys.maxsize


def peak_bytes(device: torch.device) -> int:
    """The most memory of a device that this program has taken so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
