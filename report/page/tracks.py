"""The sounds of a report: dry, fitted, wet, and the fitted chain without each effect, over one excerpt."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from reknob.afx.effect import Effect
from reknob.afx.eq import Biquad
from reknob.afx.stream import render
from reknob.data.audio import loudness
from reknob.data.pairs import Pair
from reknob.fitting.pruning import Switch, switches
from reknob.report.page.encode import PEAK, as_text, bitrate_for, opus
from reknob.report.page.source import FittedRun
from reknob.runtime.errors import UsageError

WARM_UP_S = 8.0  # before the excerpt: delay lines and detectors fill
POINTS = 600  # of a waveform
AUDIO_BYTES = 3.9e6  # of all tracks as text, so that the file stays below 5 MB
LOUDEST = 0.98  # highest peak of what is played


@dataclass(frozen=True)
class Track:
    """One sound of a report."""

    key: str  # "dry", "fitted", "wet", "off:comp.compressor"
    label: str
    x: Tensor = field(repr=False)  # (2, T)


@dataclass(frozen=True)
class Excerpt:
    """A part of a recording, in samples."""

    begin: int
    end: int
    warm_up: int  # samples before it that are rendered too


def loudest_excerpt(x: Tensor, sr: int, seconds: float) -> Excerpt:
    """The part of a recording (C, T), of at most `seconds`, that has the most energy."""
    total, length = x.shape[-1], round(seconds * sr)
    if total <= length:
        return Excerpt(0, total, 0)
    energy = np.concatenate([[0.0], np.cumsum(x.double().square().sum(0).numpy())])
    begin = int(np.argmax(energy[length:] - energy[:-length]))
    return Excerpt(begin, begin + length, min(begin, round(WARM_UP_S * sr)))


def label_of(name: str, names: Sequence[str]) -> str:
    """A name in words, "sends.delay" as "delay", "peak1" as "peak 1"; in full where two would be the same."""
    last = name.rpartition(".")[2]
    same = sum(other.rpartition(".")[2] == last for other in names)
    words = (name if same > 1 else last).replace("_", " ").replace(".", ": ")
    return re.sub(r"(?<=[a-z])(?=\d)", " ", words)


def tracks(run: FittedRun, pair: Pair, excerpt: Excerpt, fitted: Tensor) -> Iterator[Track]:
    """Dry, fitted and wet, then the fitted chain without each effect, (2, T) each."""
    span = slice(excerpt.begin, excerpt.end)
    yield Track("dry", "dry", pair.dry[:, span].expand(2, -1))
    yield Track("fitted", "fitted", fitted)
    yield Track("wet", "wet", pair.wet[:, span])
    dry = pair.dry[:, excerpt.begin - excerpt.warm_up : excerpt.end]
    parts = groups(run.chain)
    for part in parts:
        values = run.values_of(run.raws | part.off)
        y = render(run.chain, values, dry)[:, excerpt.warm_up :]
        yield Track(f"off:{part.name}", label_of(part.name, [each.name for each in parts]), y)


def groups(chain: Effect) -> list[Switch]:
    """What can be off; before the bands of an equaliser all of them together."""
    parts, leaves = switches(chain), dict(chain.leaves())
    bands = [part for part in parts if isinstance(leaves.get(f"{part.name}."), Biquad)]
    if len(bands) < 2:
        return parts
    off = {name: raw for band in bands for name, raw in band.off.items()}
    return [Switch("equaliser", off, frozenset(off)), *parts]


def record(tracks: Sequence[Track], sr: int, total_bytes: float = AUDIO_BYTES) -> list[dict]:
    """Each track as the page takes it: labels, gains, a waveform, and the audio as text of about `total_bytes`.

    `gain` is the factor of the decoded audio at which all have the loudness of wet, `own` that at their own levels.
    """
    levels = {track.key: _loudness(track.x, sr) for track in tracks}
    reference = levels.get("wet")
    peaks = {track.key: max(float(track.x.abs().max()), 1e-6) for track in tracks}
    matched = {
        key: 1.0 if level is None or reference is None else 10 ** ((reference - level) / 20)
        for key, level in levels.items()
    }
    # One factor for both, so that only differences between tracks change with the choice.
    most = max(peaks[key] * max(matched[key], 1.0) for key in peaks)
    bitrate = bitrate_for(total_bytes, tracks[0].x.shape[-1] / sr, len(tracks))
    rows = []
    for track in tracks:
        scale = peaks[track.key] / PEAK
        rows.append(
            {
                "key": track.key,
                "label": track.label,
                "lufs": levels[track.key],
                "gain": scale * matched[track.key] * LOUDEST / most,
                "own": scale * LOUDEST / most,
                "wave": waveform(track.x * matched[track.key]),
                "audio": as_text(opus(track.x / scale, sr, bitrate)),
            }
        )
    return rows


def waveform(x: Tensor, points: int = POINTS) -> list[float]:
    """The peaks of audio (C, T) in `points` equal parts, relative to full scale."""
    levels = x.abs().amax(0)
    size = max(-(-len(levels) // points), 1)
    padded = torch.nn.functional.pad(levels, (0, -len(levels) % size))
    return [round(peak, 3) for peak in padded.reshape(-1, size).amax(1).tolist()]


def _loudness(x: Tensor, sr: int) -> float | None:
    """Integrated loudness in LUFS; None where it is too quiet or too short to be measured."""
    try:
        level = loudness(x, sr)
    except UsageError:
        return None
    return level if np.isfinite(level) else None
