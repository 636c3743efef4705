"""Faults of a pair of recordings and other properties that affect a fit: findings with a severity and a remedy.

Thresholds were set on eighteen real pairs, vocals with their published mixes and with known chains, none of which has
a finding above a note, and on the demo with the faults that `tests/test_doctor.py` adds.
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
from reknob.data.pair_files import PairFiles

NOTE, WARNING, REFUSAL = "note", "warning", "refusal"

#: Codes of findings, and what each means.
CODES = {
    "rates": "a file is resampled",
    "lengths": "the files differ in length: one is cut, or dry is padded with silence where wet continues",
    "lag": "wet begins later or earlier than dry; aligned to the nearest whole sample",
    "inverted": "wet has the opposite polarity of dry; corrected",
    "polarity_uncertain": "the polarity of wet cannot be determined: other processing altered its phase",
    "channel_inverted": "the channels of wet have opposite polarity",
    "drift": "the clocks of the two recordings differ",
    "edits": "the lag jumps: one of the recordings was edited",
    "retimed": "the lag varies by milliseconds: pitch correction or time editing",
    "dc": "a DC offset was removed",
    "clipping": "the waveform is clipped: it has flat tops",
    "silent_channel": "one channel is silent or almost silent",
    "mono_wet": "wet has one channel",
    "mono_dry": "dry is stereo and was averaged to mono",
    "quiet_file": "a file is very quiet and was amplified",
    "gain": "wet is much louder or quieter than dry",
    "noise_floor": "the noise floor of dry is high",
    "band_edge": "a file has no content above some frequency",
    "foreign": "wet contains sound that does not come from dry",
    "swapped": "dry and wet may be swapped",
    "identical": "wet equals dry",
    "unusable": "a file cannot be used: silent, too short, stereo where mono is needed",
    "unrelated": "the files are not recordings of one performance",
    "gated_dry": "dry was gated or denoised",
}

CLIPPED = 1e-4  # smallest share of samples on flat tops; a mastering limiter leaves about 44 in 10 s, on sibilants
FLAT = 3  # equal samples in a row that make a flat top
QUIETER = -2.0  # dB; compression and reverb raise the quiet parts of a mix: ten real pairs measured at least +1.6
RELATED_PEAK = 0.05  # of `Alignment.gcc_phat_peak`, the median over windows; unrelated pairs: at most 0.02, real: 0.16
UNEXPLAINED = 0.17  # share of wet that is no linear echo of dry; 16 of 18 real pairs have 0.01 to 0.11
IN_PAUSES = 0.002  # share of wet in pauses of dry, required in addition to `UNEXPLAINED`; real pairs have 0.001
VARYING_LAG = 3.0  # samples: median distance from a constant lag; 16 of 18 real pairs have less than 0.1
LOUD_NOISE = -50.0  # dB relative to the mean power; two good pairs with steady noise have -66 and -74
EXCERPT = 60.0  # s; longest stretch that is searched for foreign sound


@dataclass(frozen=True)
class Finding:
    """One sentence that describes a property of a pair, and one that says what was done or what to do."""

    code: str
    severity: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.text}; {self.remedy}" if self.remedy else self.text


@dataclass
class PairCheck:
    """Measurements and findings of a pair."""

    lag_samples: float = 0.0  # at the dry file's own rate, positive where wet is later
    polarity: tuple[int, ...] = (1, 1)
    drift_ppm: float = 0.0
    band_edge_hz: dict[str, float] = field(default_factory=dict)  # of "dry" and "wet"
    findings: list[Finding] = field(default_factory=list)
    windows: tuple[tuple[float, float, float], ...] = ()  # (s of dry, lag in samples, correlation)
    dry_sr: int = 44100  # Hz, of the dry file

    def add(self, code: str, severity: str, text: str, remedy: str = "") -> None:
        """Append a finding."""
        assert code in CODES, code
        self.findings.append(Finding(code, severity, text, remedy))

    @property
    def refusals(self) -> list[Finding]:
        """The findings for which the pair is refused."""
        return [finding for finding in self.findings if finding.severity == REFUSAL]

    def record(self) -> dict[str, object]:
        """The content of the JSON file, see docs/pair-check.md."""
        return {
            "lag_samples": self.lag_samples,
            "polarity": list(self.polarity),
            "drift_ppm": self.drift_ppm,
            "band_edge_hz": dict(self.band_edge_hz),
            "findings": [asdict(finding) for finding in self.findings],
        }

    def summary(self) -> str:
        """Lag, polarity and drift in one line."""
        signs = "".join("+" if sign > 0 else "-" for sign in self.polarity)
        lag, drift = round(self.lag_samples, 2) + 0.0, round(self.drift_ppm, 1) + 0.0  # never -0
        return f"lag {lag:.2f} samples, polarity {signs}, drift {drift:.1f} ppm"


def check_file(check: PairCheck, side: str, x: Tensor, sr: int, sr_fit: int, name: object) -> None:
    """Add findings about one file `(C, T)` at `sr` Hz: band edge, clipping, a silent channel, level, gate, noise.

    `side` is "dry" or "wet"; `sr_fit` is the sample rate in Hz of the fit, `name` is what messages call the file.
    """
    edge = check.band_edge_hz[side] = band_edge(x, sr)
    if edge < 0.7 * sr_fit / 2:
        text = f"{side} has no content above {edge / 1000:.1f} kHz"
        remedy = "effects cannot be fitted above it; give a file without a low-pass, at its original sample rate"
        check.add("band_edge", WARNING, text, remedy)
    share = clipped_share(x)
    if share > CLIPPED:
        text = f"{side} is clipped: {100 * share:.2f} % of its samples lie on flat tops"
        remedy = "only a chain with a clipper can reproduce them; export the file again at a lower level"
        check.add("clipping", WARNING, text, remedy)
    power = torch.linalg.vector_norm(x, dim=1).square() / x.shape[1]
    if len(x) == 2 and power.min() < 1e-2 * power.max():
        _check_one_sided(check, side, power, name)
    peak = float(x.abs().max())
    if 0 < peak < 1e-3:
        text = f"{side} peaks at {20 * np.log10(peak):.0f} dBFS"
        remedy = "it was amplified, unless lufs=null; at this level, a 16-bit file has lost its quiet parts"
        check.add("quiet_file", NOTE, text, remedy)
    if side == "dry":
        _check_gate(check, x)
        floor = noise_floor(x, sr)
        if floor > LOUD_NOISE:
            text = f"dry contains steady noise {-floor:.0f} dB below its mean level"
            check.add("noise_floor", NOTE, text, "a compressor amplifies it, and an expander may be fitted to it")


def _check_one_sided(check: PairCheck, side: str, power: Tensor, name: object) -> None:
    """Add a note if a channel of dry is silent, a warning if one of wet is; `power` `(2,)` is that of the channels."""
    if side == "dry" and power.min() == 0:
        check.add("silent_channel", NOTE, f"{name}: one channel is silent, the other is used")
    elif side == "wet":
        quiet = ("left", "right")[int(power.argmin())]
        how = "silent" if power.min() == 0 else f"{10 * float(torch.log10(power.max() / power.min())):.0f} dB quieter"
        text = f"{name}: the {quiet} channel is {how}"
        remedy = "the fit pans everything to the other side; export mono if that is not intended"
        check.add("silent_channel", WARNING, text, remedy)


def clipped_share(x: Tensor) -> float:
    """Share of the samples of `x` `(C, T)` that begin three equal ones in a row within 1 % of their channel's peak."""
    flat = 0
    for channel in x:
        peak = float(torch.linalg.vector_norm(channel, float("inf")))
        high = (channel.abs() > 0.99 * peak).nonzero()[:, 0] if peak else channel.new_zeros(0).long()
        first = high[high < len(channel) - FLAT + 1]  # few samples lie so high
        equal = torch.stack([channel[first + k] == channel[first] for k in range(1, FLAT)])
        flat += int(equal.all(dim=0).sum())
    return flat / max(1, x.numel())


def _check_gate(check: PairCheck, x: Tensor) -> None:
    """Add a finding where dry `(C, T)` was gated.

    That is, where much of it is digital silence, or some of it while no other sample is near zero, as at a fade.
    """
    if torch.count_nonzero(x) > 0.95 * x.numel():  # the usual case, without the work below
        return
    y = x.abs().amax(dim=0)
    sounding = y.nonzero()
    if not len(sounding):
        return
    inside = y[int(sounding[0]) : int(sounding[-1]) + 1]
    share = float((inside == 0).float().mean())
    least = float(inside[inside > 0].min() / inside.max())
    if share > 0.25 or (share > 0.05 and least > 1e-3):
        level = f", and all other samples exceed {20 * np.log10(least):.0f} dB of its peak" if least > 1e-3 else ""
        text = f"dry was gated or edited: {100 * share:.0f} % of it is digital silence{level}"
        check.add("gated_dry", NOTE, text, "reverb and gain may be fitted to what the gate removed")


def check_alignment(
    check: PairCheck, alignment: Alignment, sr: int, fix_drift: bool, fix_channel_polarity: bool
) -> None:
    """Add findings about the alignment, measured at `sr` Hz; the flags say which corrections are made afterwards."""
    check.lag_samples, check.polarity = alignment.lag_samples * check.dry_sr / sr, alignment.polarity
    check.drift_ppm, check.windows = alignment.drift_ppm, alignment.windows
    sure = f"{100 * alignment.agreement:.0f} % of the windows agree"
    if abs(check.lag_samples) >= 0.6:
        word, late = ("later", check.lag_samples) if check.lag_samples > 0 else ("earlier", -check.lag_samples)
        text = f"wet is {late:.2f} samples ({1000 * late / check.dry_sr:.2f} ms) {word} than dry ({sure})"
        check.add("lag", NOTE, text, "aligned to the nearest whole sample")
    peaks = f"its correlation peak is {alignment.polarity_ratio:.1f} times the highest one of opposite sign"
    if all(sign < 0 for sign in alignment.polarity):
        check.add("inverted", NOTE, f"wet is inverted ({peaks})", "corrected")
    elif any(sign < 0 for sign in alignment.polarity):
        text = f"the channels of wet have opposite polarity and cancel in mono ({peaks})"
        remedy = "corrected" if fix_channel_polarity else "left as it is; fix_channel_polarity=true corrects it"
        check.add("channel_inverted", WARNING, text, remedy)
    elif alignment.polarity_ratio < 1.6:
        check.add("polarity_uncertain", NOTE, f"the polarity of wet is uncertain ({peaks})", "left as it is")
    if alignment.drift_ppm:
        word = "faster" if alignment.drift_ppm > 0 else "slower"
        text = f"the clocks differ: wet runs {abs(alignment.drift_ppm):.1f} ppm {word} than dry ({sure})"
        check.add("drift", WARNING, text, "corrected" if fix_drift else "left as it is; fix_drift=true resamples wet")
    if alignment.edits:
        jumps = ", ".join(f"{jump:+.0f} samples at {time:.1f} s" for time, jump in alignment.edits[:5])
        times = f"{len(alignment.edits)} times" if len(alignment.edits) > 1 else "once"
        text = f"the lag jumps {times}: {jumps}"
        check.add("edits", WARNING, text, "only the part before the first jump is aligned; cut the files there")
    if alignment.lag_deviation > VARYING_LAG:
        text = f"the lag varies: its median deviation is {alignment.lag_deviation:.0f} samples"
        remedy = "parts were pitch-corrected or moved in time, which no chain of effects reproduces"
        check.add("retimed", NOTE, text, remedy)


def check_relation(
    check: PairCheck, dry: Tensor, wet: Tensor, sr: int, alignment: Alignment, drift_fixed: bool
) -> None:
    """Add findings from comparing aligned `dry` `(1, T)` and `wet` `(2, T)`: swapped, gain, copies, other sound."""
    rise = level_percentile(wet, sr) - level_percentile(dry, sr)
    if rise < QUIETER:
        text = f"the quiet parts of wet are {-rise:.1f} dB below those of dry, and processing usually raises them"
        check.add("swapped", WARNING, text, "are dry and wet swapped?")
    power = [float(torch.linalg.vector_norm(x)) ** 2 / x.numel() for x in (dry, wet)]
    change = 10 * np.log10(power[1] / power[0]) if min(power) > 0 else 0.0
    if abs(change) > 30:
        word = "louder" if change > 0 else "quieter"
        check.add("gain", NOTE, f"wet is {abs(change):.0f} dB {word} than dry", "both are scaled to one loudness")
    if (alignment.drift_ppm and not drift_fixed) or alignment.edits:
        return  # a filter that is constant in time cannot explain a varying delay
    first = int(_loudest_start(wet, round(EXCERPT * sr)))
    part = slice(first, first + round(EXCERPT * sr))
    dry, wet = dry[:, part], _folded(wet[:, part])
    if _is_copy(dry, wet):
        text = "wet equals dry, apart from a gain"
        check.add("identical", WARNING, text, "there is nothing to fit; give the processed file")
        return
    unexplained = unexplained_share(dry, wet)
    varying = alignment.lag_deviation >= VARYING_LAG
    if unexplained > UNEXPLAINED and not varying and (share := share_in_pauses(dry, wet, sr)) > IN_PAUSES:
        text = (
            f"wet contains other sound: {100 * unexplained:.0f} % of its energy does not follow from dry, "
            f"{100 * share:.1f} % of it lies in pauses of dry"
        )
        check.add("foreign", WARNING, text, "give the processed track alone, without the other instruments")


def check_related(check: PairCheck, alignment: Alignment, files: PairFiles, severity: str) -> bool:
    """Whether two files are related; adds a finding of this severity where they are not."""
    if alignment.gcc_phat_peak >= RELATED_PEAK:
        return True
    text = (
        f"{files.dry_path} and {files.wet_path} seem unrelated: their whitened correlation is "
        f"{alignment.gcc_phat_peak:.3f}, at least {RELATED_PEAK:g} is needed and related recordings have 0.1 to 1"
    )
    check.add("unrelated", severity, text, "check the two files, or set check_pair=false")
    return False


def _folded(x: Tensor) -> Tensor:
    """The mean of two channels, or half their difference where they are of opposite polarity."""
    sign = 1.0 if (x[0] * x[1]).sum() >= 0 else -1.0
    return 0.5 * (x[:1] + sign * x[1:])


def _loudest_start(x: Tensor, length: int) -> int:
    """First sample of the loudest stretch of `length` samples of x `(C, T)`, in steps of an eighth of it."""
    hop = max(1, length // 8)
    power = x[:, : x.shape[1] // hop * hop].square().mean(dim=0).reshape(-1, hop).sum(dim=1)
    if len(power) <= 8:
        return 0
    return int(power.unfold(0, 8, 1).sum(dim=1).argmax()) * hop


def _is_copy(dry: Tensor, wet: Tensor) -> bool:
    """Whether `wet` `(1, T)` is `dry` `(1, T)` times a factor, with an error below -60 dB."""
    factor = (dry * wet).sum() / dry.square().sum().clamp(min=1e-30)
    return bool((wet - factor * dry).square().sum() < 1e-6 * wet.square().sum())


def _spectra(x: Tensor, n: int = 2048) -> Tensor:
    """Spectra `(n / 2 + 1, frames)` of half-overlapping Hann-windowed frames of x `(1, T)`."""
    x = pad(x, (0, max(0, n - x.shape[-1])))
    return torch.stft(x[0], n, n // 2, window=torch.hann_window(n), return_complex=True)


def unexplained_share(dry: Tensor, wet: Tensor, taps: int = 6, bins: int = 370) -> float:
    """Share of the energy of `wet` `(1, T)` that is no linear combination of the last `taps` frames of `dry` `(1, T)`.

    By least squares, in each of the `bins` lowest bins (up to 8 kHz at 44.1 kHz) of frames of 2048 samples.
    """
    d, w = _spectra(dry)[2:bins], _spectra(wet)[2:bins]
    past = torch.stack([pad(d, (k, 0))[:, : d.shape[1]] for k in range(taps)], dim=-1)
    gram, cross = past.mH @ past, past.mH @ w[..., None]
    ridge = 1e-6 * gram.diagonal(dim1=-2, dim2=-1).real.mean(dim=-1) + 1e-20
    weights = torch.linalg.solve(gram + ridge[:, None, None] * torch.eye(taps), cross)
    residual = w - (past @ weights)[..., 0]
    return float(residual.abs().square().sum() / w.abs().square().sum().clamp(min=1e-30))


def share_in_pauses(dry: Tensor, wet: Tensor, sr: int, decay: float = 30.0) -> float:
    """Share of the energy of `wet` `(1, T)` that lies in pauses of `dry` `(1, T)`, the mean over six octaves.

    In each octave from 100 Hz to 6.4 kHz, the level of dry is held and falls by `decay` dB per second, as a
    reverb of it would. Counted is the energy of wet that exceeds this level, times the median ratio of wet to it, by
    more than 12 dB.
    """
    edges = 100.0 * 2.0 ** torch.arange(7)
    bands = []
    for spectrum in (_spectra(dry), _spectra(wet)):
        power, freq = spectrum.abs().square(), torch.arange(len(spectrum)) * sr / 2048
        bands.append(torch.stack([power[(freq >= low) & (freq < high)].sum(dim=0) for low, high in pairwise(edges)]))
    dry_bands, wet_bands = bands
    fall, state = 10 ** (-decay * 1024 / sr / 10), torch.zeros(6)
    held = torch.empty_like(dry_bands)  # (6, frames), power of dry that falls slowly
    for t in range(dry_bands.shape[1]):
        state = torch.maximum(dry_bands[:, t], state * fall)
        held[:, t] = state
    floor = 1e-6 * held.amax(dim=1, keepdim=True) + 1e-30
    ratio = (wet_bands / (held + floor)).median(dim=1, keepdim=True).values
    excess = (wet_bands - 16 * ratio * held).clamp(min=0).sum(dim=1)
    return float((excess / wet_bands.sum(dim=1).clamp(min=1e-30)).mean())
