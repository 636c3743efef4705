"""How much memory there is, how much work takes, and what a program asks of the C library about it."""

import contextlib
import ctypes
import os
import resource
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import torch

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of glibc's malloc.h
RESET_PEAK = "5"  # of proc(5), clear_refs
SAMPLED_EVERY_S = 0.005
PROC, GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
# Limit, use, and what of the use is cached files that the kernel drops first, in both versions of control groups.
GROUP_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def keep_freed_memory() -> None:
    """Keep what is freed for the next step: to give it back and be given it anew, zeroed, takes a tenth of a step."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(TRIM_THRESHOLD, -1)
        mallopt(MMAP_MAX, 0)


def return_freed_memory() -> None:
    """Give what is freed back to the system once, so that the process takes no more than it uses."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def free_bytes(device: torch.device, proc: Path = PROC, groups: Path = GROUPS) -> int:
    """Memory of a device that programs can still take; `proc` and `groups` are where Linux tells of it."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    told = proc / "meminfo"
    if told.exists():
        lines = dict(line.split(":") for line in told.read_text().splitlines())
        return min(1024 * int(lines["MemAvailable"].split()[0]), *_left_to_groups(proc, groups))
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _left_to_groups(proc: Path, groups: Path) -> Iterator[int]:
    """What the limits leave of the control groups that hold this process, and of all groups above them."""
    yield sys.maxsize
    with contextlib.suppress(OSError):
        for line in (proc / "self" / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            version, root = (1, groups / "memory") if controllers else (2, groups)
            # A container may see its own group as the root of the tree, under a path that is the host's.
            names = [name for name in path.split("/") if name not in ("", "..")]
            for depth in range(len(names) + 1):
                yield _left_to_group(root.joinpath(*names[:depth]), *GROUP_FILES[version])


def _left_to_group(folder: Path, limit: str, used: str, cached: str) -> int:
    try:
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        reclaimable = int(stat.get(cached, 0))
    except (OSError, ValueError):
        reclaimable = 0
    try:
        return max(int((folder / limit).read_text()) - int((folder / used).read_text()) + reclaimable, 0)
    except (OSError, ValueError):  # no such group, no limit, or "max"
        return sys.maxsize


def peak_bytes(device: torch.device) -> int:
    """The most memory of a device that this program has taken, since it began or `PeakMemory` was last entered."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class PeakMemory:
    """A block of work whose most memory is measured: `bytes`, beyond what was in use when it began.

    On a GPU by the allocator's own record. On a CPU by the kernel's record of the process, which is reset, after freed
    memory is given back: what the allocator had kept would hide what the work takes. Where the kernel does not let it
    be reset, by sampling the process's memory every few milliseconds, which may miss a short peak.

    Args:
        device: whose memory is measured.
        proc: where Linux tells of the process.
    """

    def __init__(self, device: torch.device, proc: Path = PROC):
        self.device, self.proc, self.bytes = device, proc, 0
        self._highest, self._done = 0, threading.Event()
        self._sampler: threading.Thread | None = None

    def __enter__(self) -> "PeakMemory":
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
            return self
        return_freed_memory()
        self._before = self._resident("VmRSS")
        try:
            (self.proc / "self" / "clear_refs").write_text(RESET_PEAK)
        except OSError:
            self._sampler = threading.Thread(target=self._sample, daemon=True)
            self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            highest = peak_bytes(self.device)
        elif self._sampler is None:
            highest = self._resident("VmHWM")
        else:
            self._done.set()
            self._sampler.join()
            highest = max(self._highest, self._resident("VmRSS"))
        self.bytes = max(highest - self._before, 0)

    def _sample(self) -> None:
        while not self._done.wait(SAMPLED_EVERY_S):
            self._highest = max(self._highest, self._resident("VmRSS"))

    def _resident(self, field: str) -> int:
        """VmRSS, the memory in use now, or VmHWM, the most so far; without such a file the most so far."""
        try:
            for line in (self.proc / "self" / "status").read_text().splitlines():
                if line.startswith(f"{field}:"):
                    return 1024 * int(line.split()[1])
        except OSError:
            pass
        return peak_bytes(self.device)
