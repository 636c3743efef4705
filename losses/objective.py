"""What a fit needs of a loss, and the adapter that makes any callable `loss(pred, target)` such a one."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from reknob.runtime.errors import UsageError

STEREO = 2


class Target(Protocol):
    """N target chunks as a loss compares them: everything that can be computed of them once."""

    def select(self, index: Tensor) -> "Target":
        """Return the chunks `index`, integers (n,), in that order."""
        ...


# Checkable, as `build_fit_loss` adapts a loss that lacks these members.
@runtime_checkable
class FitLoss(Protocol):
    """A loss of several weighted terms over several batches of stereo chunks at once; see `VocalLoss`, `ScalarLoss`."""

    @property
    def term_names(self) -> tuple[str, ...]:
        """The names of its K terms, as in reports."""
        ...

    @property
    def least_samples(self) -> int:
        """The shortest signals that it compares."""
        ...

    @property
    def joins_tracks(self) -> bool:
        """Whether `terms` takes more than one batch, so that a step can hold several tracks."""
        ...

    def to(self, device: torch.device) -> "FitLoss":
        """The same with its buffers on a device."""
        ...

    def prepare(self, target: Tensor) -> Target:
        """Compute everything of the target chunks (B, 2, T) once."""
        ...

    def terms(self, pred: Tensor, target: Any, shares: Tensor) -> Tensor:  # noqa: ANN401 - what its own `prepare` gives
        """The K terms (N, K) of N batches, consecutive in pred (B, 2, T); shares as in `losses.stft.batch_sums`."""
        ...

    def weigh(self, terms: Tensor) -> Tensor:
        """The loss (…), of terms (…, K)."""
        ...


class TensorTarget:
    """Target chunks in one tensor, the first dimension being that of the chunks."""

    def __init__(self, data: Tensor) -> None:
        self.data = data

    def select(self, index: Tensor) -> "TensorTarget":
        """Return the chunks `index`, copied."""
        return TensorTarget(self.data[index])


class ScalarLoss:
    """A loss of one term for a fit, from a callable `loss(pred, target)` that gives a scalar of (B, 2, T) twice.

    The callable may average over its batch as it likes, so that a step holds one track only. These members of it are
    used where it has them: `prepare(target)`, whose result it takes as target, a tensor or what has `select`;
    `to(device)`; `least_samples`; and `channels`, the counts of channels that it compares.

    Args:
        loss: the callable.
        name: of the loss and its term.

    Raises UsageError where the loss does not compare stereo audio.
    """

    joins_tracks = False

    def __init__(self, loss: Callable[..., Tensor], name: str) -> None:
        if STEREO not in channels_of(loss):
            raise UsageError(f"loss {name!r} does not compare stereo audio, which a fit needs; choose another")
        self.loss, self.name, self.term_names = loss, name, (name,)
        self.least_samples = int(getattr(loss, "least_samples", 1))

    def to(self, device: torch.device) -> "ScalarLoss":
        """The same with the callable on a device, where it can be moved."""
        move = getattr(self.loss, "to", None)
        return ScalarLoss(move(device), self.name) if move else self

    def prepare(self, target: Tensor) -> Target:
        """What the callable computes of the target (B, 2, T) once, or the target itself."""
        prepare = getattr(self.loss, "prepare", None)
        prepared = prepare(target) if prepare else target
        if isinstance(prepared, Tensor):
            return TensorTarget(prepared)
        # A step compares a selection of chunks; what cannot be selected from is computed again in every step.
        return prepared if hasattr(prepared, "select") else TensorTarget(target)

    def terms(self, pred: Tensor, target: Tensor | Target, shares: Tensor) -> Tensor:
        """The loss (1, 1) of one batch pred (B, 2, T), all of whose items count."""
        if len(shares) > 1:
            raise UsageError(f"loss {self.name!r} compares one batch at a time, {len(shares)} given")
        # A single batch has no padding, so no share is 0 and the callable may see every item.
        term = self.loss(pred, target.data if isinstance(target, TensorTarget) else target)
        # In every call: what a registered callable returns is not known earlier.
        if not isinstance(term, Tensor) or term.numel() != 1:
            given = f"shape {tuple(term.shape)}" if isinstance(term, Tensor) else f"{type(term).__name__}"
            raise UsageError(f"loss {self.name!r} returned {given}; a loss returns a scalar tensor")
        return term.reshape(1, 1)

    def weigh(self, terms: Tensor) -> Tensor:
        """The only term (…), of terms (…, 1)."""
        return terms[..., 0]


def channels_of(loss: object) -> tuple[int, ...]:
    """The counts of channels that a loss, or its class, compares: 1 and 2 where it declares none."""
    return getattr(loss, "channels", (1, 2))
