"""What a preset sounds like in a few numbers with units, and the words for a change of them."""

from collections.abc import Mapping

import numpy as np
import torch

from reknob.afx.chain import Sends, Serial
from reknob.afx.curve import RESPONSE, Curve
from reknob.afx.effect import Effect, Values, own_values, part_values

LOUD_DB, SOFT_DB = -10.0, -40.0  # input levels whose gains a compressor makes differ
SECONDS = 2.0  # of the response that wetness and width are computed of
#: Name -> unit, the words for more and less, and the smallest change that is worth a word.
TRAITS: dict[str, tuple[str, str, str, float]] = {
    "brightness": ("dB", "brighter", "darker", 1.0),
    "warmth": ("dB", "warmer", "thinner", 1.0),
    "density": ("dB", "denser", "more dynamic", 1.0),
    "wetness": ("dB", "wetter", "drier", 1.0),
    "width": ("dB", "wider", "narrower", 1.0),
    "reverb_time": ("s", "longer reverb", "shorter reverb", 0.1),
}


def traits(chain: Effect, values: Values, *, responses: bool = True) -> dict[str, float]:
    """Numbers by the names of `TRAITS`, those that the chain has, of values without a batch dimension.

    - brightness: mean gain of the equaliser from 4 to 12 kHz, less that from 0.2 to 1 kHz, in dB
    - warmth: mean gain of the equaliser from 80 to 250 Hz, less that from 0.5 to 2 kHz, in dB
    - density: gain of the dynamics at -40 dB of input, less that at -10 dB, in dB
    - reverb_time: median decay by 60 dB from 0.25 to 4 kHz, in s
    - wetness: energy of delay and reverb in their first 2 s, over that of the direct path, in dB
    - width: energy of the side over that of the mid of all of them, in dB

    The last two need an impulse response; without `responses` they are left out.
    """
    found: dict[str, float] = {}
    for curve in chain.curves(values):
        if curve.title == RESPONSE:
            found["brightness"] = _mean(curve, 4000, 12_000) - _mean(curve, 200, 1000)
            found["warmth"] = _mean(curve, 80, 250) - _mean(curve, 500, 2000)
        elif "gain" in curve.y_label and "level" in curve.x_label:
            found["density"] = float(np.interp(SOFT_DB, curve.x, curve.y) - np.interp(LOUD_DB, curve.x, curve.y))
        elif curve.y_label == "time (s)":
            found["reverb_time"] = float(np.median(curve.y[(curve.x >= 250) & (curve.x <= 4000)]))
    if responses:
        found |= _space(chain, values)
    return {name: found[name] for name in TRAITS if name in found}


def words(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """The change from some traits to others in words with numbers, largest first: "brighter (+4.1 dB), drier (…)"."""
    changes = []
    for name, (unit, more, less, least) in TRAITS.items():
        if name in before and name in after:
            change = after[name] - before[name]
            size = abs(change) / least
            if size >= 1:
                changes.append((size, f"{more if change > 0 else less} ({change:+.1f} {unit})"))
    return ", ".join(text for _, text in sorted(changes, reverse=True)) or "much the same"


def _mean(curve: Curve, low: float, high: float) -> float:
    return float(np.nanmean(curve.y[(curve.x >= low) & (curve.x <= high)]))


def _space(chain: Effect, values: Values) -> dict[str, float]:
    """Wetness and width of the first parallel effects in series; empty without such or without a direct path."""
    parts = chain.parts() if isinstance(chain, Serial) else iter(())
    name, sends = next(((name, part) for name, part in parts if isinstance(part, Sends)), ("", None))
    if sends is None or sends.direct is None:
        return {}
    inner = part_values(values, name)
    with torch.no_grad():
        response = sends.shortened(round(SECONDS * sends.sr)).response(**inner)[:, 0]
        direct = sends.direct.response(**own_values(part_values(inner, "direct")))[:, 0]
    wet = response.clone()
    wet[:, : direct.shape[-1]] -= direct
    side, mid = (response[0] - response[1]).square().sum(), (response[0] + response[1]).square().sum()
    ratios = {"wetness": wet.square().sum() / direct.square().sum(), "width": side / mid}
    return {name: float(10 * (ratio + 1e-9).log10()) for name, ratio in ratios.items()}
