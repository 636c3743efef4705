"""Where a run and a preset document come from: versions, device, seed, and the hashes of the recordings."""

import hashlib
import platform
import shutil
import subprocess
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from reknob import __version__
from reknob.runtime.files import SHIPPED, printable

COMPUTING = ("scipy", "numba", "soundfile")  # packages whose version may change a fit in its last bits


def provenance(
    inputs: Mapping[str, Path], *, device: str = "cpu", seed: int | None = None, **more: str | float | None
) -> dict[str, object]:
    """The provenance of a preset document.

    Args:
        inputs: the recordings by role ("dry", "wet"). Their names are recorded without folders, as a document may be
            passed on, with the SHA-256 of their bytes.
        device: where it was computed.
        seed: of the random numbers; None without any.
        more: further entries by name.
    """
    return {
        "created": _now(),
        "versions": _versions(),
        "device": device,
        **({} if seed is None else {"seed": seed}),
        **more,
        "inputs": hashes(inputs),
    }


def environment(device: torch.device) -> dict[str, object]:
    """What the numbers of a fit depend on in their last bits besides its settings and recordings, as plain values."""
    return {
        "created": _now(),
        "versions": _versions() | {name: version(name) for name in COMPUTING},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "processor": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "system": platform.platform(terse=True),
        "git": _git_state(),
    }


def hashes(inputs: Mapping[str, Path]) -> dict[str, dict[str, str | None]]:
    """Name without folder and SHA-256 of files by role; None for the hash of one that cannot be read."""
    return {role: {"file": printable(path.name), "sha256": _sha256(path)} for role, path in inputs.items()}


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    return {
        "reknob": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


@cache
def _git_state() -> str | None:
    """The commit of the clone, with "-dirty" where files were changed; None where there is no clone, or no git."""
    git = shutil.which("git")
    if not git or not (SHIPPED / ".git").exists():
        return None
    command = [git, "-C", str(SHIPPED), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)  # noqa: S603 - no text of a user
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _sha256(path: Path) -> str | None:
    """The hash of a file; None where it cannot be read any more."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
