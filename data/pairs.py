"""Pairs of a dry and a wet recording, loaded, checked and aligned."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from reknob.data.align import measure_alignment
from reknob.data.audio import read_audio, resample
from reknob.data.doctor import (
    NOTE,
    REFUSAL,
    WARNING,
    PairCheck,
    check_alignment,
    check_file,
    check_related,
    check_relation,
)
from reknob.data.pair_files import PairFiles
from reknob.data.prepare import crop_to_overlap, gain_to, ringing, to_mono, undo_drift, without_offset
from reknob.runtime.errors import UsageError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """A dry and a wet recording of one performance, aligned and of one length."""

    name: str
    dry: Tensor  # (1, T), or (2, T) where it was loaded in stereo
    wet: Tensor  # (2, T)
    sr: int  # Hz
    dry_path: Path
    wet_path: Path
    alignment_shift: int  # samples by which dry was delayed; negative: cut at its start
    check: PairCheck = field(default_factory=PairCheck)


class PairError(UsageError):
    """Two files that cannot be used as a pair; `check` holds the findings."""

    def __init__(self, message: str, check: PairCheck) -> None:
        super().__init__(message)
        self.check = check


def load_pair(
    files: PairFiles,
    sr: int = 44100,
    lufs: float | None = -18.0,
    *,
    align: bool = True,
    shift: int | None = None,
    wrap: bool = False,
    check: bool = True,
    fix_drift: bool = False,
    fix_channel_polarity: bool = False,
    stereo: bool = False,
) -> Pair:
    """The two files as mono and stereo, with dry delayed by `shift` samples, cut to their overlap, at `lufs` LUFS each.

    `shift=None` measures the shift if `align` is true, and is 0 otherwise. Where wet continues after the end of dry,
    dry is padded with silence while wet decays. An inverted wet is corrected and a DC offset removed; `fix_drift`
    resamples a wet whose clock differs, `fix_channel_polarity` corrects a single inverted channel. `lufs=None` keeps
    the levels, `stereo` both channels of dry.
    With `wrap`, dry is rolled circularly and nothing else is done, as for the published preset sets.

    Findings are logged and stored in the pair's `check`. PairError (a UsageError, one line) where the files cannot be
    used; with `check=False`, unrelated files only give a warning.
    """
    report = PairCheck()
    try:
        dry, wet = _read(report, files, sr, examine=not wrap, stereo=stereo)
        if wrap:
            length, shift = min(dry.shape[-1], wet.shape[-1]), shift or 0
            dry, wet = dry[:, :length].roll(shift, dims=-1), wet[:, :length]
        else:
            fixes = Fixes(align, shift, fix_drift, fix_channel_polarity)
            dry, wet, shift = _aligned(report, dry, wet, sr, files, fixes, check)
        refusal = next(iter(report.refusals), None)
        if refusal:
            raise UsageError(str(refusal))
        gains = gain_to(dry, sr, lufs, files.dry_path), gain_to(wet, sr, lufs, files.wet_path)
    except UsageError as error:
        if not report.refusals:
            report.add("unusable", REFUSAL, str(error))
        raise PairError(str(error), report) from None
    if not wrap:
        _log_findings(report, files.name)
    return Pair(files.name, dry * gains[0], wet * gains[1], sr, files.dry_path, files.wet_path, shift, report)


def _read(report: PairCheck, files: PairFiles, sr: int, examine: bool, stereo: bool) -> tuple[Tensor, Tensor]:
    """Dry `(1, T1)`, or `(2, T1)` with `stereo`, and wet `(2, T2)` at `sr` Hz; with `examine`, DC offsets are removed
    and each file is checked.
    """
    dry, report.dry_sr = _read_side(report, "dry", files.dry_path, sr, examine)
    wet, _ = _read_side(report, "wet", files.wet_path, sr, examine)
    if len(wet) < len(dry):
        text = f"{files.wet_path} is mono and {files.dry_path} is stereo: are dry and wet swapped?"
        report.add("swapped", WARNING, text)
    if len(wet) == 1:
        text = f"{files.wet_path} is mono: copied to both channels, so that no panning can be fitted"
        report.add("mono_wet", WARNING, text)
    if stereo:
        dry = dry.expand(2, -1)
    else:
        dry, channels = to_mono(dry, files.dry_path)
        if channels == 2:
            report.add("mono_dry", NOTE, f"{files.dry_path}: stereo, averaged to mono")
    for x, path in ((dry, files.dry_path), (wet, files.wet_path)):
        if x.shape[-1] < 0.4 * sr or not x.any():
            gain_to(x, sr, None, path)  # raises UsageError: too short or silent
    return dry, wet.expand(2, -1)


def _read_side(report: PairCheck, side: str, path: Path, sr: int, examine: bool) -> tuple[Tensor, int]:
    """One file `(1|2, T)` at `sr` Hz, and the sample rate in Hz that it has."""
    x, file_sr = read_audio(path)
    if x.shape[0] > 2:
        raise UsageError(f"{path} has {x.shape[0]} channels, at most 2 are allowed: export it as mono or stereo")
    if examine:
        x, offset = without_offset(x)
        if offset:
            report.add("dc", NOTE, f"{path}: a DC offset of {offset:+.3f}", "removed")
        check_file(report, side, x, file_sr, sr, path)
    if file_sr == sr:
        return x, file_sr
    report.add("rates", NOTE, f"{path}: resampled from {file_sr} to {sr} Hz")
    return resample(x, file_sr, sr), file_sr


class Fixes(NamedTuple):
    """The corrections of time and polarity that `load_pair` makes."""

    align: bool
    shift: int | None
    drift: bool
    channel_polarity: bool


def _aligned(
    report: PairCheck, dry: Tensor, wet: Tensor, sr: int, files: PairFiles, fixes: Fixes, check: bool
) -> tuple[Tensor, Tensor, int]:
    """`dry` `(C, T1)` and `wet` `(2, T2)` cut to their overlap `(C, T)` and `(2, T)`, and the shift of dry in samples.

    Of a stereo dry the mean of its channels is compared with wet. Adds findings; without `check` unrelated files are a
    warning only. UsageError where nothing overlaps.
    """
    alignment = measure_alignment(dry.mean(0, keepdim=True), wet, sr)
    related = check_related(report, alignment, files, REFUSAL if check else WARNING)
    shift = fixes.shift
    if related:  # the alignment of unrelated files is random
        check_alignment(report, alignment, sr, fixes.drift, fixes.channel_polarity)
        if fixes.channel_polarity or len(set(alignment.polarity)) == 1:
            wet = wet * wet.new_tensor(alignment.polarity)[:, None]
        if fixes.drift and alignment.drift_ppm:
            wet = undo_drift(wet, alignment.drift_ppm, alignment.lag_samples)
        if shift is None and fixes.align:
            shift = round(alignment.lag_samples)
    shift = shift or 0
    lengths = dry.shape[-1] - max(0, -shift), wet.shape[-1] - max(0, shift)
    dry, wet = crop_to_overlap(dry, wet, shift, ringing(wet, dry.shape[-1] + shift, sr))
    if not wet.shape[-1]:
        raise UsageError(f"{files.name}: with shift={shift} samples dry and wet do not overlap; give another shift")
    if abs(lengths[0] - lengths[1]) > 0.1 * sr:
        seconds = [x / sr for x in (*lengths, wet.shape[-1])]
        report.add("lengths", NOTE, "aligned, dry lasts {:.2f} s and wet {:.2f} s: {:.2f} s are used".format(*seconds))
    if related:
        check_relation(report, dry.mean(0, keepdim=True), wet, sr, alignment, fixes.drift)
    return dry, wet, shift


def _log_findings(report: PairCheck, name: str) -> None:
    """Log a line per finding, notes at level INFO and the others at WARNING."""
    for finding in report.findings:
        log.log(logging.INFO if finding.severity == NOTE else logging.WARNING, "%s: %s", name, finding)
    if not report.findings:
        log.info("%s: a good pair: %s", name, report.summary())
