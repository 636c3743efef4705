"""Where values lie among the published presets: quantiles of each scalar parameter of the two sets of DiffVox.

`published.json` holds 21 quantiles per parameter, from the 365 and the 70 presets that the paper uses (arXiv
2504.14735): statistics of the sets, which themselves belong to that release. `quantiles` computes them anew.
"""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from reknob.analysis.features import load_features

FILE = Path(__file__).with_name("published.json")
SHARES = np.linspace(0, 1, 21)


@cache
def published() -> dict[str, Any]:
    """The content of published.json: "source", "count", and "quantiles" (21,) by parameter."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def quantiles(folders: Sequence[str | Path]) -> dict[str, list[float]]:
    """The quantiles (21,) of every scalar parameter over the presets of some sets of one chain, in its unit."""
    sets = [load_features(Path(folder)).values() for folder in folders]
    return {
        name: [float(f"{x:.5g}") for x in np.quantile(np.concatenate([each[name] for each in sets]), SHARES)]
        for name, values in sets[0].items()
        if values.ndim == 1
    }


def percentile(name: str, value: float) -> int | None:
    """The percentage of the published presets whose value of a parameter is lower; None where they have no such one."""
    known = published()["quantiles"].get(name)
    if known is None:
        return None
    # The middle where a quantile is met exactly, as several may be equal.
    low, high = np.searchsorted(known, value, "left"), np.searchsorted(known, value, "right")
    if low < high:
        return round(100 * float(SHARES[low] + SHARES[high - 1]) / 2)
    return round(100 * float(np.interp(value, known, SHARES)))
