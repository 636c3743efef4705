"""What tests have worker processes compute, in a file that imports little: each worker imports it anew."""

from reknob.losses import LOSSES


def is_loss(name: str) -> bool:
    return name in LOSSES
