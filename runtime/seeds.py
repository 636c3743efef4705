"""Seeds of statistically independent random streams, all derived from the one seed that a user gives."""

import numpy as np
import torch


def stream_seed(seed: int, *names: str | int) -> int:
    """The seed in [0, 2⁶³) of one of a program's random streams, a hash of the user's seed and the stream's names.

    A sum would collide: epoch 1 of seed 0 would draw the same numbers as epoch 0 of seed 1.

    Args:
        seed: the user's seed, at least 0.
        names: what is drawn, and its index where it has one: ("codec", epoch).
    """
    numbers = [name if isinstance(name, int) else int.from_bytes(name.encode()) for name in names]
    # One bit is dropped, as torch takes signed 64-bit seeds.
    return int(np.random.SeedSequence(seed, spawn_key=numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def stream(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator seeded with `stream_seed`."""
    return torch.Generator().manual_seed(stream_seed(seed, *names))
