"""Where a preset document comes from: versions, device, seed, and the hashes of the recordings."""

import hashlib
import platform
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import numpy as np
import torch

from reknob import __version__
from reknob.runtime.files import printable


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
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": {
            "reknob": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "device": device,
        **({} if seed is None else {"seed": seed}),
        **more,
        "inputs": {role: {"file": printable(path.name), "sha256": _sha256(path)} for role, path in inputs.items()},
    }


def _sha256(path: Path) -> str | None:
    """The hash of a file; None where it cannot be read any more."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
