"""Free memory as Linux tells of it, limits of control groups included, and the peak of a block of work."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from reknob.runtime import memory
from reknob.runtime.memory import PeakMemory, free_bytes

CPU = torch.device("cpu")
GB = 10**9
ROOT = Path(__file__).parents[1]
AVAILABLE = 16 * GB // 1024 * 1024


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc where 16 GB are available and the process is in no group."""
    folder = tmp_path / "proc"
    (folder / "self").mkdir(parents=True)
    (folder / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable: {AVAILABLE // 1024} kB\n")
    return folder


def group(folder: Path, version: int, limit: int | str, used: int, cached: int = 0) -> None:
    """Writes a control group's files."""
    folder.mkdir(parents=True, exist_ok=True)
    names = memory.GROUP_FILES[version]
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 7\n{names[2]} {cached}\n")


def test_without_control_groups_what_is_available_is_free(proc: Path, tmp_path: Path) -> None:
    assert free_bytes(CPU, proc, tmp_path / "none") == AVAILABLE
    (proc / "self" / "cgroup").write_text("0::/\n")
    assert free_bytes(CPU, proc, tmp_path / "none") == AVAILABLE


def test_the_tightest_of_nested_groups_counts(proc: Path, tmp_path: Path) -> None:
    groups, job = tmp_path / "cgroup", "system.slice/slurmstepd.scope/job_7"
    (proc / "self" / "cgroup").write_text(f"0::/{job}/step_0/task_0\n")
    group(groups / job / "step_0" / "task_0", 2, "max", GB)
    group(groups / job, 2, 8 * GB, 3 * GB)
    assert free_bytes(CPU, proc, groups) == 5 * GB
    group(groups / job / "step_0", 2, 4 * GB, 3 * GB)
    assert free_bytes(CPU, proc, groups) == GB
    group(groups / "system.slice", 2, 2 * GB, 3 * GB)
    assert free_bytes(CPU, proc, groups) == 0, "over its limit already"


def test_a_container_sees_its_own_group_at_the_root(proc: Path, tmp_path: Path) -> None:
    groups = tmp_path / "cgroup"
    group(groups, 2, 3 * GB, GB)
    for path in ("/", "/docker/0123abcd", "/../../docker/0123abcd"):
        (proc / "self" / "cgroup").write_text(f"0::{path}\n")
        assert free_bytes(CPU, proc, groups) == 2 * GB, path


@pytest.mark.parametrize("line", ["4:memory:/slurm/uid_1/job_7", "9:cpuacct,memory:/slurm/uid_1/job_7"])
def test_groups_of_the_first_version_are_seen(proc: Path, tmp_path: Path, line: str) -> None:
    groups = tmp_path / "cgroup"
    (proc / "self" / "cgroup").write_text(f"8:pids:/slurm\n{line}\n1:name=systemd:/\n0::/\n")
    group(groups / "memory", 1, 2**63 - 4096, 9 * GB)
    assert free_bytes(CPU, proc, groups) == AVAILABLE, "that number means no limit"
    group(groups / "memory" / "slurm" / "uid_1", 1, 6 * GB, 2 * GB)
    assert free_bytes(CPU, proc, groups) == 4 * GB
    group(groups / "pids" / "slurm", 1, GB, 0)
    assert free_bytes(CPU, proc, groups) == 4 * GB, "another controller has no say"


def test_cached_files_of_a_group_can_be_taken_back(proc: Path, tmp_path: Path) -> None:
    groups = tmp_path / "cgroup"
    (proc / "self" / "cgroup").write_text("0::/job\n")
    group(groups / "job", 2, 8 * GB, 8 * GB - 1, cached=6 * GB)
    assert free_bytes(CPU, proc, groups) == 6 * GB + 1


# A process of its own, as other threads of this one may take or return memory at any moment.
PEAKS = """
import time
import torch
from reknob.runtime import memory

def work(megabytes):
    held = torch.ones(megabytes * 2**18)
    time.sleep(0.03)  # long enough to be sampled

for memory.RESET_PEAK in ("5", "no number"):
    work(300)
    for megabytes in (100, 30):
        with memory.PeakMemory(torch.device("cpu")) as peak:
            kept = torch.ones(megabytes * 2**18)
            work(megabytes)
        print(megabytes, peak.bytes)
        del kept
"""


def test_a_peak_is_that_of_the_block_whatever_was_taken_before() -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("no /proc")
    run = subprocess.run([sys.executable, "-c", PEAKS], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [line.split() for line in run.stdout.splitlines()]
    assert len(lines) == 4, "the kernel resets the peak, then it does not; two blocks each"
    for megabytes, peak in lines:
        assert 1.8 * int(megabytes) * 2**20 < int(peak) < 2.5 * int(megabytes) * 2**20 + 2**25


def test_without_proc_a_peak_is_never_negative(tmp_path: Path) -> None:
    with PeakMemory(CPU, tmp_path) as peak:
        torch.ones(2**18)
    assert peak.bytes >= 0
