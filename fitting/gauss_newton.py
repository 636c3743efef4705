"""Least squares by Gauss and Newton, with the damping of Levenberg and Marquardt."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor

LESS, TRIES = 6.0, 7  # factor on the damping after each trial step; trial steps of an iteration
TINY = 1e-30


class Point(Protocol):
    """Parameters, and what the cost says of them."""

    @property
    def cost(self) -> float: ...


P = TypeVar("P", bound=Point)


def minimise(
    point: P,
    derivatives: Callable[[P], tuple[Tensor, Tensor]],
    moved: Callable[[P, Tensor], P],
    *,
    iterations: int,
    least_gain: float,
    least_cost: float = 0.0,
    damping: float = 1e-3,
    least_slope: float = 1e-7,
    pause: Callable[[], object] = lambda: None,
) -> P:
    """The point of the lowest cost that is found from a point downhill.

    Args:
        point: to begin with.
        derivatives: half the second derivatives (p, p) of the cost, and half its negative gradient (p,), at a point.
        moved: the point after a step (p,), which it may shorten.
        iterations: at most.
        least_gain: it ends where an iteration lowers the cost by a smaller share,
        least_cost: and below this cost.
        damping: of the first iteration, relative to the second derivatives.
        least_slope: a second derivative counts as this share of the largest at least, so that no parameter is undamped.
        pause: called between iterations; may raise.

    Source: Marquardt, An Algorithm for Least-Squares Estimation of Nonlinear Parameters, J. SIAM 11(2), 1963.
    """
    for _ in range(iterations):
        pause()
        curvature, slope = derivatives(point)
        # Where nothing changes the cost, as in silence, steps are 0.
        scale = curvature.diagonal().clamp(min=least_slope * float(curvature.diagonal().max()) + TINY)
        for _ in range(TRIES):
            new = moved(point, torch.linalg.solve(curvature + damping * scale.diag(), slope).float())
            if new.cost < point.cost:
                break
            damping *= LESS
        else:
            break
        gain, point, damping = 1 - new.cost / point.cost, new, damping / LESS
        if gain < least_gain or point.cost < least_cost:
            break
    return point
