"""Distance between controls."""

from typing import ClassVar

from torch import Tensor

from reknob.runtime.errors import UsageError


class ParameterLoss:
    """Ten times the mean square of the differences of controls q (B, P) in unit range.

    Source: Peladeau and Peeters, BE-AFX, arXiv 2310.11781.
    """

    channels: ClassVar[tuple[int, ...]] = ()  # it compares no audio

    def __call__(self, pred: Tensor, target: Tensor) -> Tensor:
        """Compare the controls pred and target, (B, P) both: a scalar."""
        if pred.shape != target.shape:
            raise UsageError(
                f"controls of shapes {tuple(pred.shape)} and {tuple(target.shape)} cannot be compared; "
                "the parameter loss needs one chain on both sides"
            )
        return 10 * (pred - target).square().mean()
