"""The curves of a chain with one set of values, as plain numbers for the browser."""

from typing import Any

import torch

from reknob.afx.effect import Effect, Values, flatten, nest
from reknob.report.page.curves import ECHO_FLOOR_DB, echoes, of_curve

MOST_POINTS = 200  # of a curve: more than a panel has room for


@torch.no_grad()
def curves_of(chain: Effect, values: Values) -> list[dict[str, Any]]:
    """What figures draw of a chain: response, compressor, reverb decay as curves, and echoes as lines.

    Each is as of `report.page.curves.of_curve`; echoes, where any is above ECHO_FLOOR_DB, also have `pans`, from -100
    (left) to 100, one for each line.
    """
    values = nest({name: value.detach().cpu() for name, value in flatten(values).items()})
    drawn = [of_curve(curve, -(-len(curve.x) // MOST_POINTS)) for curve in chain.curves(values)]
    return drawn + [_echoes(each["taps"]) for each in echoes(chain, values) if each["taps"]]


def _echoes(taps: list[dict[str, float]]) -> dict[str, Any]:
    """The echoes of one delay, as a figure."""
    x, y, pans = ([tap[key] for tap in taps] for key in ("ms", "db", "pan"))
    labels = {"title": "Echoes", "xLabel": "time (ms)", "yLabel": "level (dB)", "note": ""}
    return labels | {"x": x, "y": y, "pans": pans, "log": False, "least": [ECHO_FLOOR_DB, 0.0]}
