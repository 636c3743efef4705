"""Where the work is done."""

import torch


def pick_device(name: str) -> torch.device:
    """The device of "auto" (a GPU where there is one), "cpu" or "cuda"; ValueError for another or an absent one."""
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device={name}: allowed are auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda: torch finds no GPU here; use device=auto or device=cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
