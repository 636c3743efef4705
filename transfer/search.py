"""The project's transfer: of all presets, the one of the least expected loss, given how near each is in style."""

from collections.abc import Callable

import torch
from torch import Tensor

from reknob.runtime.errors import UsageError
from reknob.transfer.levels import band_power, frame_levels, style_distances, style_statistics
from reknob.transfer.space import Renderer

PLACES = 15.0  # within which the weight of presets falls to 1/e
SHARE = 12.0  # or within a twelfth of a small set


def search(
    renderer: Renderer,
    reference: Tensor,
    rows: Tensor,
    on_row: Callable[[int], None] = lambda done: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Tensor:
    """The row (F,) among rows (N, F) whose output is on average the nearest to those of rows likely to be true.

    Every row renders the raw recording. How near its style is to the reference's (2, T) orders the rows, and a row's
    weight is exp(-place / 15), in small sets exp(-12 place / N): a record of another voice tells so little that many
    rows are likely. Of the least expected loss is not the likeliest row but one in the middle of the likely ones
    (minimum Bayes risk). Stopped early, it is one of those that were rendered. UsageError where none of them sounds.
    """
    target = style_statistics(band_power(reference[None], renderer.sr))
    distances, levels = [], []
    for number, row in enumerate(rows.split(1), 1):
        with torch.no_grad():
            y = renderer.at_level(row)  # silence where it is not finite
            power = band_power(y, renderer.sr)
            distances.append(style_distances(style_statistics(power), target) if y.any() else y.new_tensor([torch.inf]))
            levels.append(frame_levels(power).flatten(1).half())
        on_row(number)
        if stopped():
            break
    return rows[least_expected(torch.cat(distances), torch.cat(levels))]


def least_expected(distances: Tensor, levels: Tensor) -> int:
    """The number of the least expected mean difference in levels (N, L), by distances (N,) from the reference."""
    places = min(PLACES, len(distances) / SHARE)
    near = distances.argsort()[: round(8 * places) + 1]  # of the others, the weights are too small to count
    near = near[distances[near].isfinite()]
    if not len(near):
        raise UsageError("no preset of the set gives sound: a transfer needs a set fitted to recordings like these")
    weights = (-torch.arange(len(near)) / places).exp()
    differences = torch.cdist(levels[near].float(), levels[near].float(), p=1)
    return int(near[(differences @ weights).argmin()])
