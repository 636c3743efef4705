"""Seeds of random streams that share nothing with each other."""

import numpy as np
import torch


def stream_seed(seed: int, *names: str | int) -> int:
    """The seed of one of a program's streams, in [0, 2⁶³): another one for each seed and each list of names.

    A sum would not do: epoch 1 of seed 0 would be epoch 0 of seed 1.

    Args:
        seed: what the user gave, at least 0.
        names: what is drawn, and whatever number it has: ("codec", epoch).
    """
    numbers = [name if isinstance(name, int) else int.from_bytes(name.encode()) for name in names]
    return int(np.random.SeedSequence(seed, spawn_key=numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def stream(seed: int, *names: str | int) -> torch.Generator:
    """A generator of the stream of `stream_seed`."""
    return torch.Generator().manual_seed(stream_seed(seed, *names))
