"""The curves of a chain with one set of values, as plain numbers for the browser."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from reknob.afx.curve import Curve
from reknob.afx.delay import PingPongDelay
from reknob.afx.effect import Effect, Values, flatten, nest, own_values, part_values
from reknob.afx.functional.units import gain_to_db

MOST_POINTS = 200  # of a curve: more than a panel has room for
QUIETEST_DB, MOST_ECHOES = -60.0, 24


@torch.no_grad()
def curves_of(chain: Effect, values: Values) -> list[dict[str, Any]]:
    """What figures draw of a chain: response, compressor, reverb decay as curves, and echoes as lines.

    Each is title, x_label, y_label, x, y, log_x, note and least as of `afx.curve.Curve`, y None where it is not finite;
    echoes also have `pans`, 0 left to 1 right, one for each line.
    """
    values = nest({name: value.detach().cpu() for name, value in flatten(values).items()})
    return [_plain(curve) for curve in chain.curves(values)] + [_echoes(*each) for each in _delays(chain, values)]


def _plain(curve: Curve) -> dict[str, Any]:
    step = -(-len(curve.x) // MOST_POINTS)
    x, y = curve.x[::step], curve.y[::step]
    return {
        "title": curve.title,
        "x_label": curve.x_label,
        "y_label": curve.y_label,
        "x": np.round(x, 3).tolist(),
        "y": [round(number, 3) if np.isfinite(number) else None for number in y.tolist()],
        "log_x": curve.log_x,
        "note": curve.note,
        "least": curve.least,
    }


def _delays(effect: Effect, values: Values) -> Iterator[tuple[PingPongDelay, Values]]:
    if isinstance(effect, PingPongDelay):
        yield effect, values
        return
    for name, part in effect.parts():
        yield from _delays(part, part_values(values, name))


def _echoes(delay: PingPongDelay, values: Values) -> dict[str, Any]:
    """The echoes of a ping-pong delay, without the filter in its loop: times in ms, levels in dB, pans."""
    own = {name: float(value) for name, value in own_values(values).items()}
    levels = own["gain"] * own["feedback"] ** np.arange(MOST_ECHOES)
    db = gain_to_db(torch.from_numpy(levels).clamp(min=1e-9)).numpy()
    count = max(1, int((db > QUIETEST_DB).sum()))
    pans = [float(own_values(part_values(values, name))["pan"]) for name in ("odd_pan", "even_pan")]
    return {
        "title": "Echoes",
        "x_label": "time (ms)",
        "y_label": "level (dB)",
        "x": [round(own["delay"] * (k + 1), 1) for k in range(count)],
        "y": [round(max(number, QUIETEST_DB), 2) for number in db[:count].tolist()],
        "pans": [round(pans[k % 2], 3) for k in range(count)],
        "log_x": False,
        "note": "",
        "least": (QUIETEST_DB, 0.0),
    }
