"""Free memory, peak memory of a block of work, and settings of the C library's allocator."""

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
# By version of control groups: the files of limit and use, and the field of memory.stat with reclaimable file cache.
GROUP_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def keep_freed_memory() -> None:
    """Makes malloc keep freed memory: returning it and faulting in zeroed pages again costs a tenth of a step."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(TRIM_THRESHOLD, -1)
        mallopt(MMAP_MAX, 0)


def return_freed_memory() -> None:
    """Returns all freed memory to the system once."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def free_bytes(device: torch.device, proc: Path = PROC, groups: Path = GROUPS) -> int:
    """Bytes of a device's memory that can still be allocated; on a CPU also within the limits of control groups.

    Without Linux's `proc` it is half of the physical memory. `groups` is the root of the control groups' file system.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = proc / "meminfo"
    if meminfo.exists():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        return min(1024 * int(lines["MemAvailable"].split()[0]), *_left_to_groups(proc, groups))
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _left_to_groups(proc: Path, groups: Path) -> Iterator[int]:
    """Bytes left below the limit of each control group of this process, and of every parent group."""
    yield sys.maxsize
    with contextlib.suppress(OSError):
        for line in (proc / "self" / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            version, root = (1, groups / "memory") if controllers else (2, groups)
            # In a container the path is the host's, but the container's own group may be mounted as the root: so every
            # group from the root down is read, and those that are absent have no limit.
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
    """Peak bytes of a device's memory used by this process since its start, or since `PeakMemory` was last entered."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # ru_maxrss is in kilobytes, on macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class PeakMemory:
    """Peak memory of a block of work: `bytes` above what was in use when the block was entered.

    On a GPU it is the peak of torch's allocator. On a CPU it is the kernel's peak of the process's resident memory
    (VmHWM), reset at entry; freed memory is returned first, as the block would reuse it and the peak would not rise.
    Where the kernel refuses the reset, resident memory is sampled every 5 ms, which can miss a short peak.

    Args:
        device: whose memory is measured.
        proc: mount point of Linux's proc file system.
    """

    def __init__(self, device: torch.device, proc: Path = PROC) -> None:
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
        """Bytes of VmRSS, the current resident memory, or VmHWM, its peak; without such a file the peak."""
        try:
            for line in (self.proc / "self" / "status").read_text().splitlines():
                if line.startswith(f"{field}:"):
                    return 1024 * int(line.split()[1])
        except OSError:
            pass
        return peak_bytes(self.device)
