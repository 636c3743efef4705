"""What is wrong with a pair of recordings, or worth knowing: findings, each with its severity and a remedy.

Thresholds were set on eighteen real pairs, vocals with their published mixes and with known chains, none of which has
a finding above a note, and on the faults that `tests/test_doctor.py` makes out of the demo.
"""

from dataclasses import asdict, dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from reknob.data.align import Alignment, level_percentile
from reknob.data.bandwidth import band_edge
from reknob.data.noise import noise_floor

NOTE, WARNING, REFUSAL = "note", "warning", "refusal"

#: Codes of findings, and what each means.
CODES = {
    "rates": "a file is resampled",
    "lengths": "one file is cut, or the tail of wet goes on beside silence",
    "lag": "wet begins later or earlier than dry; aligned by the nearest whole sample",
    "inverted": "wet has the opposite polarity of dry; undone",
    "polarity_uncertain": "the sign of wet cannot be told: its phase is turned by other means",
    "channel_inverted": "the channels of wet have opposite polarity",
    "drift": "the clocks of the two recordings differ",
    "edits": "the lag jumps: one of the recordings was cut",
    "retimed": "the lag wanders within milliseconds: pitch correction or time editing",
    "dc": "a DC offset was removed",
    "clipping": "samples sit on flat tops",
    "silent_channel": "one channel holds no sound, or hardly any",
    "mono_wet": "wet has one channel",
    "mono_dry": "dry is stereo and was folded to mono",
    "quiet_file": "a file is very quiet and was raised",
    "gain": "wet is far louder or quieter than dry",
    "noise_floor": "the noise of dry lies high",
    "band_edge": "a file holds nothing above some frequency",
    "foreign": "a share of wet does not come from dry",
    "swapped": "dry and wet look swapped",
    "identical": "wet is dry",
    "unusable": "a file cannot be one side of a pair: silent, too short, stereo where mono is needed",
    "unrelated": "the files are not of one performance",
    "gated_dry": "dry was gated or denoised",
}

CLIPPED = 1e-4  # least share of samples on flat tops; 44 each 10 s would be sibilants of a mastering limiter
FLAT = 3  # samples in a row
QUIETER = -2.0  # dB; compression and reverb raise the quiet moments of a mix: ten real pairs measured +1.6 and more
RELATED_PEAK = 0.05  # median of the windows' whitened correlations; unrelated pairs have at most 0.02, real ones 0.16
UNEXPLAINED = 0.17  # share of wet that no linear echo of dry explains; 16 of 18 real pairs have 0.01 to 0.11
IN_PAUSES = 0.002  # share of wet above what rings of dry, beside a high unexplained one; real pairs have 0.001
WANDERS = 3.0  # samples: median distance from a constant lag; 16 of 18 real pairs have less than 0.1
LOUD_NOISE = -50.0  # dB below the sound; two good pairs whose noise is steady have -66 and -74
EXCERPT = 60.0  # s in which foreign sound is looked for


@dataclass(frozen=True)
class Finding:
    """One sentence on what was found, and one on what to do."""

    code: str
    severity: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.text}; {self.remedy}" if self.remedy else self.text


@dataclass
class PairCheck:
    """All that was found of a pair."""

    lag_samples: float = 0.0  # at the dry file's own rate, positive where wet is later
    polarity: tuple[int, ...] = (1, 1)
    drift_ppm: float = 0.0
    band_edge_hz: dict[str, float] = field(default_factory=dict)  # of "dry" and "wet"
    findings: list[Finding] = field(default_factory=list)
    windows: tuple[tuple[float, float, float], ...] = ()  # (s of dry, lag in samples, correlation)
    dry_sr: int = 44100  # Hz, of the dry file

    def add(self, code: str, severity: str, text: str, remedy: str = "") -> None:
        assert code in CODES, code
        self.findings.append(Finding(code, severity, text, remedy))

    @property
    def refusals(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == REFUSAL]

    def record(self) -> dict:
        """As JSON holds it."""
        return {
            "lag_samples": self.lag_samples,
            "polarity": list(self.polarity),
            "drift_ppm": self.drift_ppm,
            "band_edge_hz": dict(self.band_edge_hz),
            "findings": [asdict(finding) for finding in self.findings],
        }

    def summary(self) -> str:
        """The one line of a good pair."""
        signs = "".join("+" if sign > 0 else "-" for sign in self.polarity)
        return f"lag {self.lag_samples:.2f} samples, polarity {signs}, drift {round(self.drift_ppm, 1) + 0.0:.1f} ppm"


def check_file(check: PairCheck, side: str, x: Tensor, sr: int, sr_fit: int, name: object) -> None:
    """What one file `(C, T)` at `sr` Hz shows by itself: band edge, clipping, silent or one-sided channels, level."""
    edge = check.band_edge_hz[side] = band_edge(x, sr)
    if edge < 0.7 * sr_fit / 2:
        text = f"{side} holds nothing above {edge / 1000:.1f} kHz"
        what = "effects cannot be fitted above it" if side == "wet" else "nothing above it can be fitted"
        check.add("band_edge", WARNING, text, f"{what}; give a file without a low-pass, at its own rate")
    share = clipped_share(x)
    if share > CLIPPED:
        text = f"{side} is clipped: {100 * share:.2f} % of its samples sit on flat tops"
        check.add("clipping", WARNING, text, "no chain without a clipper makes these; export it again at a lower level")
    power = torch.linalg.vector_norm(x, dim=1).square() / x.shape[1]
    if len(x) == 2 and power.min() < 1e-2 * power.max():
        _check_one_sided(check, side, power, name)
    peak = float(x.abs().max())
    if 0 < peak < 1e-3:
        text = f"{side} peaks at {20 * np.log10(peak):.0f} dBFS"
        check.add(
            "quiet_file", NOTE, text, "it was raised, unless lufs=null; 16-bit files lose their quiet parts there"
        )
    if side == "dry":
        _check_gate(check, x)
        floor = noise_floor(x, sr)
        if floor > LOUD_NOISE:
            text = f"dry holds steady noise {-floor:.0f} dB below its sound"
            check.add("noise_floor", NOTE, text, "a compressor raises it, and an expander may be fitted to it")


def _check_one_sided(check: PairCheck, side: str, power: Tensor, name: object) -> None:
    if side == "dry" and power.min() == 0:
        check.add("silent_channel", NOTE, f"{name}: one channel is silent, the other is used")
    elif side == "wet":
        quiet = ("left", "right")[int(power.argmin())]
        how = "silent" if power.min() == 0 else f"{10 * float(torch.log10(power.max() / power.min())):.0f} dB quieter"
        text = f"{name}: the {quiet} channel is {how}"
        check.add("silent_channel", WARNING, text, "the fit would pan everything aside; export mono if it is not meant")


def clipped_share(x: Tensor) -> float:
    """Share of samples of `x` `(C, T)` that lie with equal neighbours, three in a row, within 1 % of its peak."""
    flat = 0
    for channel in x:
        peak = float(torch.linalg.vector_norm(channel, float("inf")))
        high = (channel.abs() > 0.99 * peak).nonzero()[:, 0] if peak else channel.new_zeros(0).long()
        first = high[high < len(channel) - FLAT + 1]  # few samples lie so high
        equal = torch.stack([channel[first + k] == channel[first] for k in range(1, FLAT)])
        flat += int(equal.all(dim=0).sum())
    return flat / max(1, x.numel())


def _check_gate(check: PairCheck, x: Tensor) -> None:
    """Much digital silence between sounds, or some and no sample near it: a gate."""
    if torch.count_nonzero(x) > 0.95 * x.numel():
        return
    y = x.abs().amax(dim=0)
    sounding = y.nonzero()
    if not len(sounding):
        return
    inside = y[int(sounding[0]) : int(sounding[-1]) + 1]
    share = float((inside == 0).float().mean())
    least = float(inside[inside > 0].min() / inside.max())
    if share > 0.25 or (share > 0.05 and least > 1e-3):
        level = f", and nothing lies below {20 * np.log10(least):.0f} dB" if least > 1e-3 else ""
        text = f"dry was gated or edited: {100 * share:.0f} % between its sounds are digital silence{level}"
        check.add("gated_dry", NOTE, text, "what the gate took from dry, reverb and gain would have to make up for")


def check_alignment(check: PairCheck, found: Alignment, sr: int, fix_drift: bool, fix: bool) -> None:
    """What the alignment, measured at `sr` Hz, says; `fix_drift` and `fix` (a channel's polarity) are done if asked."""
    check.lag_samples, check.polarity = found.lag_samples * check.dry_sr / sr, found.polarity
    check.drift_ppm, check.windows = found.drift_ppm, found.windows
    sure = f"{100 * found.agreement:.0f} % of the recording agree"
    if abs(check.lag_samples) >= 0.6:
        word, late = ("later", check.lag_samples) if check.lag_samples > 0 else ("earlier", -check.lag_samples)
        text = f"wet is {late:.2f} samples ({1000 * late / check.dry_sr:.2f} ms) {word} than dry ({sure})"
        check.add("lag", NOTE, text, "aligned to the nearest whole sample")
    certain = f"its peak is {found.polarity_ratio:.1f} times the opposite one"
    if all(sign < 0 for sign in found.polarity):
        check.add("inverted", NOTE, f"wet is inverted ({certain})", "undone")
    elif any(sign < 0 for sign in found.polarity):
        text = f"the channels of wet have opposite polarity ({certain}): they cancel in mono"
        remedy = "the inverted channel was turned" if fix else "fitted as it is; fix_channel_polarity=true turns it"
        check.add("channel_inverted", WARNING, text, remedy)
    elif found.polarity_ratio < 1.6:
        check.add("polarity_uncertain", NOTE, f"the polarity of wet is uncertain ({certain})", "left as it is")
    if found.drift_ppm:
        text = f"the clocks drift: wet runs {found.drift_ppm:+.1f} ppm faster than dry ({sure})"
        check.add("drift", WARNING, text, "corrected" if fix_drift else "fix_drift=true resamples wet")
    if found.edits:
        jumps = ", ".join(f"{jump:+.0f} samples at {time:.1f} s" for time, jump in found.edits[:5])
        text = f"the lag jumps {len(found.edits)} times: {jumps}"
        check.add("edits", WARNING, text, "only what follows the first lag is aligned; cut the files there")
    if found.lag_deviation > WANDERS:
        text = f"the lag wanders by {found.lag_deviation:.0f} samples about its median"
        check.add("retimed", NOTE, text, "a part was pitch-corrected or retimed; no chain of effects follows that")


def check_relation(check: PairCheck, dry: Tensor, wet: Tensor, sr: int, found: Alignment, undone: bool) -> None:
    """What aligned files `(1, T)` and `(2, T)` at `sr` Hz show of each other: copies, other sound, swapped, gain."""
    rise = level_percentile(wet, sr) - level_percentile(dry, sr)
    if rise < QUIETER:
        text = f"the quiet moments of wet are {-rise:.1f} dB below those of dry, in a mix they lie above"
        check.add("swapped", WARNING, text, "are both swapped?")
    power = [float(torch.linalg.vector_norm(x)) ** 2 / x.numel() for x in (dry, wet)]
    change = 10 * np.log10(power[1] / power[0]) if min(power) > 0 else 0.0
    if abs(change) > 30:
        word = "louder" if change > 0 else "quieter"
        check.add("gain", NOTE, f"wet is {abs(change):.0f} dB {word} than dry", "both are brought to one loudness")
    if (found.drift_ppm and not undone) or found.edits:
        return  # what drifts is not explained by one filter
    first = int(_loudest_start(wet, round(EXCERPT * sr)))
    part = slice(first, first + round(EXCERPT * sr))
    dry, wet = dry[:, part], _folded(wet[:, part])
    if _is_copy(dry, wet):
        check.add(
            "identical", WARNING, "wet is dry up to its level", "there is nothing to fit; give the processed file"
        )
        return
    unexplained = unexplained_share(dry, wet)
    wanders = found.lag_deviation >= WANDERS
    if unexplained > UNEXPLAINED and not wanders and (share := share_in_pauses(dry, wet, sr)) > IN_PAUSES:
        text = (
            f"wet holds other sound: {100 * unexplained:.0f} % of it are no linear echo of dry, and {100 * share:.1f} "
            "% sound where dry pauses"
        )
        check.add("foreign", WARNING, text, "give the processed track alone, without the other instruments")


def refuse_unrelated(check: PairCheck, found: Alignment, files: object, severity: str) -> bool:
    """Whether two files are related; a finding of this severity where they are not."""
    if found.gcc_phat_peak >= RELATED_PEAK:
        return True
    text = (
        f"{files.dry_path} and {files.wet_path} seem unrelated: their whitened correlation is "
        f"{found.gcc_phat_peak:.3f}, a take and its mix have 0.1 to 1, {RELATED_PEAK:g} is the least allowed"
    )
    check.add("unrelated", severity, text, "check the two files, or set check_pair=false")
    return False


def _folded(x: Tensor) -> Tensor:
    """The mean of two channels, or half their difference where they are of opposite polarity."""
    sign = 1.0 if (x[0] * x[1]).sum() >= 0 else -1.0
    return 0.5 * (x[:1] + sign * x[1:])


def _loudest_start(x: Tensor, length: int) -> int:
    """Where the loudest stretch of `length` samples begins, in steps of an eighth of it."""
    hop = max(1, length // 8)
    power = x[:, : x.shape[1] // hop * hop].square().mean(dim=0).reshape(-1, hop).sum(dim=1)
    if len(power) <= 8:
        return 0
    return int(power.unfold(0, 8, 1).sum(dim=1).argmax()) * hop


def _is_copy(dry: Tensor, wet: Tensor) -> bool:
    factor = (dry * wet).sum() / dry.square().sum().clamp(min=1e-30)
    return bool((wet - factor * dry).square().sum() < 1e-6 * wet.square().sum())


def _spectra(x: Tensor, n: int = 2048) -> Tensor:
    x = pad(x, (0, max(0, n - x.shape[-1])))
    return torch.stft(x[0], n, n // 2, window=torch.hann_window(n), return_complex=True)


def unexplained_share(dry: Tensor, wet: Tensor, taps: int = 6, bins: int = 370) -> float:
    """Share of the energy of `wet` `(1, T)` that no linear combination of six past frames of `dry` `(1, T)` explains.

    In every bin of spectra of 2048 samples, 46 ms at 44.1 kHz, up to the bin 370, 8 kHz, by least squares.
    """
    d, w = _spectra(dry)[2:bins], _spectra(wet)[2:bins]
    past = torch.stack([pad(d, (k, 0))[:, : d.shape[1]] for k in range(taps)], dim=-1)
    gram, cross = past.mH @ past, past.mH @ w[..., None]
    ridge = 1e-6 * gram.diagonal(dim1=-2, dim2=-1).real.mean(dim=-1) + 1e-20
    weights = torch.linalg.solve(gram + ridge[:, None, None] * torch.eye(taps), cross)
    rest = w - (past @ weights)[..., 0]
    return float(rest.abs().square().sum() / w.abs().square().sum().clamp(min=1e-30))


def share_in_pauses(dry: Tensor, wet: Tensor, sr: int, decay: float = 30.0) -> float:
    """Share of the energy of `wet` `(1, T)` by which it exceeds 12 dB above `dry` `(1, T)` ringing at -30 dB a second.

    In octaves from 100 Hz to 6.4 kHz, relative to the median ratio of wet to the ringing dry in each, then averaged.
    """
    edges = 100.0 * 2.0 ** torch.arange(7)
    bands = []
    for spectrum in (_spectra(dry), _spectra(wet)):
        power, freq = spectrum.abs().square(), torch.arange(len(spectrum)) * sr / 2048
        bands.append(torch.stack([power[(freq >= low) & (freq < high)].sum(dim=0) for low, high in pairwise(edges)]))
    dry_bands, wet_bands = bands
    fall, state = 10 ** (-decay * 1024 / sr / 10), torch.zeros(6)
    rings = torch.empty_like(dry_bands)
    for t in range(dry_bands.shape[1]):
        state = torch.maximum(dry_bands[:, t], state * fall)
        rings[:, t] = state
    floor = 1e-6 * rings.amax(dim=1, keepdim=True) + 1e-30
    usual = (wet_bands / (rings + floor)).median(dim=1, keepdim=True).values
    beyond = (wet_bands - 16 * usual * rings).clamp(min=0).sum(dim=1)
    return float((beyond / wet_bands.sum(dim=1).clamp(min=1e-30)).mean())
