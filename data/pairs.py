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
    check_relation,
    refuse_unrelated,
)
from reknob.data.pair_files import PairFiles
from reknob.data.prepare import crop_to_overlap, gain_to, ringing, to_mono, undo_drift, without_offset
from reknob.runtime.errors import UsageError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """A dry take and its mix, of one length and aligned."""

    name: str
    dry: Tensor  # (1, T)
    wet: Tensor  # (2, T)
    sr: int  # Hz
    dry_path: Path
    wet_path: Path
    alignment_shift: int  # samples by which dry is later than in its file; negative: earlier
    check: PairCheck = field(default_factory=PairCheck)  # what was found of the two files


class PairError(UsageError):
    """A pair that cannot be one; `check` holds what was found of it."""

    def __init__(self, message: str, check: PairCheck):
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
) -> Pair:
    """The two files as mono and stereo, cut to what overlaps once dry is `shift` samples later, at `lufs` LUFS each.

    The shift is measured where none is given and `align` is set, else it is 0. Where wet goes on after dry its tail
    stays, beside silence. A wet of opposite polarity is inverted and a DC offset removed; `fix_drift` resamples a wet
    whose clock drifts, `fix_channel_polarity` turns a single inverted channel. `lufs` None keeps the levels. With
    `wrap` dry is rolled around its end and nothing else is done, as the published preset sets were made.
    All that is found is logged and in the pair's `check`; PairError (a UsageError, one line) for what cannot be a
    pair, without `check` unrelated files are a warning only.
    """
    found = PairCheck()
    try:
        dry, wet = _read(found, files, sr, examine=not wrap)
        if wrap:
            length, shift = min(dry.shape[-1], wet.shape[-1]), shift or 0
            dry, wet = dry[:, :length].roll(shift, dims=-1), wet[:, :length]
        else:
            fixes = Fixes(align, shift, fix_drift, fix_channel_polarity)
            dry, wet, shift = place(found, dry, wet, sr, files, fixes, check)
        refusal = next(iter(found.refusals), None)
        if refusal:
            raise UsageError(str(refusal))
        gains = gain_to(dry, sr, lufs, files.dry_path), gain_to(wet, sr, lufs, files.wet_path)
    except UsageError as error:
        if not found.refusals:
            found.add("unusable", REFUSAL, str(error))
        raise PairError(str(error), found) from None
    if not wrap:
        _tell(found, files.name)
    return Pair(files.name, dry * gains[0], wet * gains[1], sr, files.dry_path, files.wet_path, shift, found)


def _read(found: PairCheck, files: PairFiles, sr: int, examine: bool) -> tuple[Tensor, Tensor]:
    """Both files at `sr` Hz, dry mono and wet stereo; with `examine` without DC offset, and what they show."""
    sides, rates = {}, {}
    for side, path in (("dry", files.dry_path), ("wet", files.wet_path)):
        x, rates[side] = read_audio(path)
        if x.shape[0] > 2:
            raise UsageError(f"{path} has {x.shape[0]} channels, at most 2 are allowed: export it as mono or stereo")
        if examine:
            x, offset = without_offset(x)
            if offset:
                found.add("dc", NOTE, f"{path}: a DC offset of {offset:+.3f}", "removed")
            check_file(found, side, x, rates[side], sr, path)
        if rates[side] != sr:
            found.add("rates", NOTE, f"{path}: resampled from {rates[side]} to {sr} Hz")
        sides[side] = resample(x, rates[side], sr) if rates[side] != sr else x
    dry, wet = sides["dry"], sides["wet"]
    found.dry_sr = rates["dry"]
    if len(wet) < len(dry):
        text = f"{files.wet_path} is mono and {files.dry_path} is stereo: are dry and wet swapped?"
        found.add("swapped", WARNING, text)
    if len(wet) == 1:
        text = f"{files.wet_path} is mono: copied to both sides, the panoramas will have nothing to find"
        found.add("mono_wet", WARNING, text)
    folded = to_mono(dry, files.dry_path)
    if folded.channels == 2:
        found.add("mono_dry", NOTE, f"{files.dry_path}: stereo, averaged to mono")
    for x, path in ((folded.x, files.dry_path), (wet, files.wet_path)):
        if x.shape[-1] < 0.4 * sr or not x.any():
            gain_to(x, sr, None, path)  # raises
    return folded.x, wet.expand(2, -1)


class Fixes(NamedTuple):
    """What `load_pair` is asked to do about time and polarity."""

    align: bool
    shift: int | None
    drift: bool
    channel_polarity: bool


def place(
    found: PairCheck, dry: Tensor, wet: Tensor, sr: int, files: PairFiles, fixes: Fixes, check: bool
) -> tuple[Tensor, Tensor, int]:
    """`dry` `(1, T1)` and `wet` `(2, T2)` where they overlap, in one length and polarity, and the shift of dry."""
    alignment = measure_alignment(dry, wet, sr)
    related = refuse_unrelated(found, alignment, files, REFUSAL if check else WARNING)
    shift = fixes.shift
    if related:
        check_alignment(found, alignment, sr, fixes.drift, fixes.channel_polarity)
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
        seconds = [x / sr for x in lengths]
        what = "cut to the shorter" if lengths[1] < lengths[0] else f"{wet.shape[-1] / sr:.2f} s are used"
        found.add("lengths", NOTE, f"{what} of {seconds[0]:.2f} s (dry) and {seconds[1]:.2f} s (wet)")
    if related:
        check_relation(found, dry, wet, sr, alignment, fixes.drift)
    return dry, wet, shift


def _tell(found: PairCheck, name: str) -> None:
    for finding in found.findings:
        log.log(logging.INFO if finding.severity == NOTE else logging.WARNING, "%s: %s", name, finding)
    if not found.findings:
        log.info("%s: a good pair: %s", name, found.summary())
