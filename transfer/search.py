"""The project's transfer: settings estimated from the reference's style by a linear regression over all presets."""

from collections.abc import Callable

import torch
from torch import Tensor

from reknob.runtime.errors import UsageError
from reknob.transfer.levels import band_power, style_statistics
from reknob.transfer.space import Renderer


def search(
    renderer: Renderer,
    reference: Tensor,
    rows: Tensor,
    on_row: Callable[[int], None] = lambda done: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Tensor:
    """The row (F,) that `regress` estimates from the style of a reference (2, T).

    Every row (N, F) renders the raw recording, and the styles of these renders are what is regressed on. Stopped early,
    those that were rendered are. UsageError where fewer than two of them sound.
    """
    target = style_statistics(band_power(reference[None], renderer.sr))[0]
    used, styles = [], []
    for number, row in enumerate(rows.split(1), 1):
        with torch.no_grad():
            y = renderer.at_level(row)  # silence where it is not finite
            if y.any():
                used.append(row)
                styles.append(style_statistics(band_power(y, renderer.sr)))
        on_row(number)
        if stopped() and len(used) > 1:
            break
    if len(used) < 2:
        raise UsageError("fewer than two presets give sound: a transfer needs a set fitted to recordings like these")
    return regress(torch.cat(used), torch.cat(styles), target)


def regress(rows: Tensor, styles: Tensor, target: Tensor) -> Tensor:
    """The row (F,) of a style (E,), by ridge regression of rows (N, F) on their styles (N, E).

    With X and S rows and styles without their means x̄ and s̄, d = target - s̄, no component of which counts as more than
    one standard deviation of S, and λ the mean of the diagonal of S·Sᵀ: x̄ + Xᵀ (S·Sᵀ + λ)⁻¹ S·d. The style of another
    voice's record is partly that of the voice: limit and λ keep the estimate near the mean, where presets are.
    """
    x, s = rows.double(), styles.double()
    x_mean, s_mean = x.mean(0), s.mean(0)
    x, s = x - x_mean, s - s_mean
    limit = s.std(0)
    d = (target.double() - s_mean).clamp(-limit, limit)
    products = s @ s.mT
    ridge = products.diagonal().mean().clamp(min=1e-12) * torch.eye(len(s), dtype=s.dtype)
    return (x_mean + x.mT @ torch.linalg.solve(products + ridge, s @ d)).float()
