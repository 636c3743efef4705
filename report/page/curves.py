"""The curves of a report as plain numbers: responses of the chain, and what the excerpt shows of them."""

import math
import struct
import zlib
from typing import Any

import numpy as np
import torch
from scipy.signal import stft, welch
from torch import Tensor

from reknob.afx.curve import RESPONSE, Curve
from reknob.afx.delay import PingPongDelay
from reknob.afx.effect import Effect, Tensors, Values, flatten, nest
from reknob.report.page.encode import as_text
from reknob.report.page.source import FittedRun
from reknob.report.page.tracks import label_of

FLOOR_DB = -80.0
FRAME_S = 0.01  # of levels
FFT, HOP = 4096, 1024
LONG_FFT = 16384  # of the long-term spectra
BANDS = 72  # per spectrum, from LOWEST to HIGHEST
LOWEST, HIGHEST = 30.0, 18000.0
WIDTH = 400  # most columns of the image of the spectrogram
MOST_DB = 12.0  # at which its colours are full
ECHO_FLOOR_DB, MOST_ECHOES = -60.0, 16
PAN_BINS = 41
REVERB_S = 4.0  # of the energy decay
#: Red, green, blue where fitted is louder, and where wet is.
LOUDER = ((36, 87, 184), (217, 115, 26))

Numbers = list[float | None]


def png(image: np.ndarray) -> bytes:
    """A PNG file of an image (H, W, 4), uint8, red, green, blue and opacity. Source: ISO/IEC 15948."""
    height, width, _ = image.shape
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    framed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def rounded(values: np.ndarray, digits: int = 2) -> Numbers:
    """Numbers for JSON; None for those that are not finite."""
    return [round(float(x), digits) if math.isfinite(x) else None for x in np.asarray(values, dtype=float)]


def part_of(values: Values, prefix: str) -> Tensors:
    """The values of the effect whose parameters begin with `prefix` ("sends.delay.")."""
    return nest({name.removeprefix(prefix): x for name, x in flatten(values).items() if name.startswith(prefix)})


def shown(chain: Effect) -> list[tuple[str, Effect]]:
    """The effects with curves of their own: one that holds others repeats theirs."""
    return [(prefix, effect) for prefix, effect in chain.leaves() if not effect.holds_effects]


def of_curve(curve: Curve, step: int = 2) -> dict[str, Any]:
    """A curve for the page."""
    return {
        "title": curve.title,
        "x": rounded(curve.x[::step], 1),
        "y": rounded(curve.y[::step], 3),
        "xLabel": curve.x_label,
        "yLabel": curve.y_label,
        "log": curve.log_x,
        "note": curve.note,
        "least": list(curve.least) if curve.least else None,
    }


def equaliser(chain: Effect, values: Values) -> dict[str, Any] | None:
    """The response of every band in dB, and their sum; None for a chain without bands."""
    bands = []
    for prefix, effect in shown(chain):
        drawn = [curve for curve in effect.curves(part_of(values, prefix)) if curve.title == RESPONSE]
        bands += [(prefix.removesuffix("."), curve) for curve in drawn]
    if not bands:
        return None
    total = np.sum([curve.y for _, curve in bands], axis=0)
    return {
        "x": rounded(bands[0][1].x[::2], 1),
        "bands": [{"name": label_of(name, [name]), "y": rounded(curve.y[::2])} for name, curve in bands],
        "sum": rounded(total[::2]),
    }


def others(chain: Effect, values: Values) -> list[dict[str, Any]]:
    """All curves of the chain but the equaliser's, each with the name of its effect."""
    drawn = [(prefix, effect, effect.curves(part_of(values, prefix))) for prefix, effect in shown(chain)]
    return [
        of_curve(curve) | {"effect": prefix.removesuffix("."), "family": effect.family}
        for prefix, effect, curves in drawn
        for curve in curves
        if curve.title != RESPONSE
    ]


def dynamics(run: FittedRun, dry: Tensor, skip: int) -> tuple[Tensor, list[dict[str, Any]]]:
    """The excerpt through the chain, (2, T), and of every effect whose gain depends on the level what it did.

    `dry` (1, T) begins `skip` samples before the excerpt.
    """
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    hooks = []
    for prefix, effect in run.chain.leaves():
        if effect.level_dependent:

            def keep(_: Effect, given: tuple[Tensor, ...], output: Tensor, prefix: str = prefix) -> None:
                seen[prefix] = given[0][0, :, skip:], output[0, :, skip:]

            hooks.append(effect.register_forward_hook(keep))
    try:
        with torch.no_grad():
            y = run.chain(dry[None], **run.values)[0, :, skip:]
    finally:
        for hook in hooks:
            hook.remove()
    return y, [_gains(prefix, *sound, part_of(run.values, prefix), run.chain.sr) for prefix, sound in seen.items()]


def _gains(prefix: str, x: Tensor, y: Tensor, values: Tensors, sr: int) -> dict[str, Any]:
    """The levels that reached an effect, as a histogram, and its gain over time in dB, without its make-up gain."""
    size = round(FRAME_S * sr)
    levels, after = (frame_levels(sound, size) for sound in (x, y))
    makeup = float(values["makeup"]) if "makeup" in values else 0.0
    gain = np.where(levels > FLOOR_DB + 10, after - levels - makeup, np.nan)
    edges = np.arange(FLOOR_DB, 2.0, 2.0)
    counts = np.histogram(levels, edges)[0]
    # The lowest gain of every column, as brief reductions are what a meter shows.
    step = max(len(gain) // POINTS_OVER_TIME, 1)
    columns = [gain[i : i + step] for i in range(0, len(gain), step)]
    lowest = np.array([np.nan if np.isnan(c).all() else np.nanmin(c) for c in columns])
    active = gain[np.isfinite(gain)]
    return {
        "effect": prefix.removesuffix("."),
        "x": rounded(edges[:-1] + 1, 0),
        "share": rounded(100 * counts / max(counts.sum(), 1), 2),
        "step": step * FRAME_S,
        "gain": rounded(lowest),
        "median": round(float(np.median(active)), 1) if len(active) else None,
        "lowest": round(float(np.percentile(active, 1)), 1) if len(active) else None,
    }


POINTS_OVER_TIME = 500


def frame_levels(x: Tensor, size: int) -> np.ndarray:
    """RMS levels in dB of audio (C, T) in frames of `size` samples; the louder channel counts."""
    frames = x[:, : x.shape[-1] // size * size].reshape(len(x), -1, size)
    return (10 * frames.square().mean(-1).amax(0).clamp(min=1e-12).log10()).double().numpy()


def echoes(chain: Effect, values: Values) -> list[dict[str, Any]]:
    """The echoes of every delay: time in ms, level in dB beside the direct sound, pan from -100 (left) to 100."""
    found = []
    for prefix, effect in chain.leaves():
        own = part_of(values, prefix)
        if not isinstance(effect, PingPongDelay) or "delay" not in own:
            continue
        delay, feedback, gain = (float(own[name]) for name in ("delay", "feedback", "gain"))
        pans = [200 * float(own[side]["pan"]) - 100 for side in ("odd_pan", "even_pan")]
        taps = []
        for k in range(MOST_ECHOES):
            level = 20 * math.log10(max(gain * feedback**k, 1e-12))
            if level < ECHO_FLOOR_DB:
                break
            taps.append({"ms": round((k + 1) * delay, 1), "db": round(level, 1), "pan": round(pans[k % 2])})
        found.append({"effect": prefix.removesuffix("."), "taps": taps})
    return found


@torch.no_grad()
def decay(chain: Effect, values: Values) -> list[dict[str, Any]]:
    """The energy decay of every reverb in dB over time, backwards integrated (Schroeder, JASA 37, 1965)."""
    found = []
    impulse = torch.zeros(1, 1, round(REVERB_S * chain.sr))
    impulse[..., 0] = 1
    for prefix, effect in chain.leaves():
        if effect.family != "reverb":
            continue
        own = part_of(values, prefix)
        energy = effect(impulse, **effect.for_items(own, 1))[0].double().square().sum(0).numpy()
        if not energy.sum() > 1e-12:
            continue
        left = energy[::-1].cumsum()[::-1]
        step = len(left) // 200
        curve = 10 * np.log10(np.maximum(left[::step] / left[0], 1e-8))
        x = np.arange(len(curve)) * step / chain.sr
        found.append({"effect": prefix.removesuffix("."), "x": rounded(x, 3), "y": rounded(curve)})
    return found


class Spectra:
    """Magnitudes of dry, fitted and wet, (C, F, N) each, and what is drawn of them."""

    def __init__(self, sounds: dict[str, Tensor], sr: int) -> None:
        self.sounds, self.sr, self.magnitudes = sounds, sr, {}
        for name, x in sounds.items():
            f, t, z = stft(x.numpy(), sr, nperseg=FFT, noverlap=FFT - HOP, padded=False)
            self.frequencies, self.times, self.magnitudes[name] = f, t, np.abs(z)
        highest = min(HIGHEST, 0.98 * sr / 2)
        self.edges = np.geomspace(LOWEST, highest, BANDS + 1)
        # At least one bin per band: at low frequencies bands are narrower than bins.
        self.first = np.searchsorted(self.frequencies, self.edges[:-1])
        self.last = np.maximum(np.searchsorted(self.frequencies, self.edges[1:]), self.first + 1)

    @property
    def centres(self) -> np.ndarray:
        """The centre of each band in Hz."""
        return np.sqrt(self.edges[1:] * self.edges[:-1])

    def bands(self, name: str) -> np.ndarray:
        """The power in every band, (BANDS, N), channels added."""
        power = np.square(self.magnitudes[name]).sum(0)
        sums = np.concatenate([np.zeros((1, power.shape[1])), np.cumsum(power, 0)])
        return (sums[self.last] - sums[self.first]) / (self.last - self.first)[:, None]

    def long_term(self) -> dict[str, Any]:
        """The spectrum of each sound in dB, a sixth of an octave wide, the loudest band of wet at 0."""
        means = {}
        for name, x in self.sounds.items():
            f, power = welch(x.numpy(), self.sr, nperseg=min(LONG_FFT, x.shape[-1]))
            total = np.concatenate([[0.0], np.cumsum(power.sum(0))])
            # The cumulative power between bins, as low bands are narrower than a few bins.
            at = np.interp(np.outer([2 ** (-1 / 12), 2 ** (1 / 12)], self.centres), f - f[1] / 2, total[:-1])
            means[name] = (at[1] - at[0]) / self.centres
        top = max(means["wet"].max(), 1e-30)
        series = {name: rounded(10 * np.log10(np.maximum(mean / top, 1e-9)), 1) for name, mean in means.items()}
        return {"x": rounded(self.centres, 1), **series}

    def difference(self) -> dict[str, Any]:
        """Fitted less wet in dB, as a transparent image: time to the right, frequency upwards."""
        fitted, wet = self.bands("fitted"), self.bands("wet")
        floor = 10**-6 * max(wet.max(), 1e-12)
        db = 10 * np.log10((fitted + floor) / (wet + floor))
        step = max(-(-db.shape[1] // WIDTH), 1)
        db = np.stack([db[:, i : i + step].mean(1) for i in range(0, db.shape[1], step)], 1)
        image = np.zeros((*db.shape, 4), np.uint8)
        for sign, colour in zip((1, -1), LOUDER, strict=True):
            image[np.sign(db) == sign, :3] = colour
        image[..., 3] = np.clip(np.abs(db) / MOST_DB, 0, 1) * 255
        loud = wet > 10**-4 * wet.max()
        full = 10 * np.log10((fitted + floor) / (wet + floor))
        return {
            "image": "data:image/png;base64," + as_text(png(image[::-1])),
            "lowest": LOWEST,
            "highest": round(float(self.edges[-1])),
            "most": MOST_DB,
            "seconds": round(float(self.times[-1]), 2),
            "mean": round(float(np.abs(full[loud]).mean()), 2),
        }

    def panorama(self) -> dict[str, Any]:
        """How the energy of fitted and wet is spread from left (-100) to right, in percent of all."""
        edges = np.linspace(-100, 100, PAN_BINS + 1)
        series = {}
        for name in ("fitted", "wet"):
            left, right = self.magnitudes[name]
            position = 400 / np.pi * np.arctan2(right, left) - 100
            energy = left**2 + right**2
            share = np.histogram(position, edges, weights=energy)[0]
            series[name] = rounded(100 * share / max(share.sum(), 1e-30), 2)
        return {"x": rounded((edges[1:] + edges[:-1]) / 2, 1), **series}
