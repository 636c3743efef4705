"""Accuracy of alignment and pair check on good pairs with added faults of known size, and the time of the check.

    python -m benchmarks.alignment FOLDER... [--json F]

FOLDER holds a folder for each pair, with dry.* and wet.*, or anchor.* and oracle.*. The lag, drift and polarity of the
unchanged pair are the reference: a case is "right" where the estimated lag is within half a sample of the added one
(two samples where drift was added), the drift within 5 ppm, and the polarity as inverted. Otherwise it is "reported"
where the check has a finding above a note or calls the polarity uncertain, and "wrong" where it has none.
"""

from reknob.runtime.program import program

import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reknob.data.audio import read_audio, write_audio
from reknob.data.doctor import NOTE, PairCheck
from reknob.data.pair_files import PairFiles
from reknob.data.pairs import Pair, PairError, load_pair
from reknob.report.tables import text_table
from reknob.runtime.arguments import Parser, file_path
from reknob.runtime.errors import UsageError
from reknob.runtime.files import write_text

NAMES = (("dry", "wet"), ("anchor", "oracle"))
DELAYS = (0.25, 0.5, 1, 37, 317, 4410, 44100, 441000)  # samples
DRIFTS = (-300, -100, -20, 20, 100, 300)  # ppm


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    args = parser().parse_args(argv)
    pairs = [files for folder in args.folders for files in find_pairs(folder)]
    if not pairs:
        given = " ".join(map(str, args.folders))
        raise UsageError(f"{given}: no pair; looked for dry.* and wet.*, anchor.* and oracle.*")
    logging.getLogger("reknob.data.pairs").disabled = True
    counts: dict[str, dict[str, int]] = {}
    alarms, origins = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for files in pairs:
            reference = check(files)
            origins[files.name] = reference.record()
            alarms += [f"{files.name}: {f}" for f in reference.findings if f.severity != NOTE]
            for name, verdict in verdicts(files, reference, Path(folder)):
                row = counts.setdefault(name, {"right": 0, "reported": 0, "wrong": 0})
                row[verdict] += 1
        seconds = time_of_check(pairs, Path(folder))
    print(text_table(["case", "right", "reported", "wrong"], [[k, *map(str, v.values())] for k, v in counts.items()]))
    print(f"findings above a note on {len(pairs)} pairs as they are: {len(alarms)}", *alarms, sep="\n  ")
    print(f"check of 240 s at 44.1 kHz: {seconds[0]:.2f} s, {seconds[1]:.2f} s of CPU, decoding left out")
    if args.json:
        record = {"counts": counts, "alarms": alarms, "seconds": seconds, "pairs": origins}
        write_text(args.json, json.dumps(record, indent=1))
    return 0


def find_pairs(folder: Path) -> Iterator[PairFiles]:
    """The pairs in the subfolders of `folder`."""
    for song in sorted(path for path in folder.iterdir() if path.is_dir()):
        for names in NAMES:
            paths = [next(iter(sorted(song.glob(f"{name}.*"))), None) for name in names]
            if all(paths):
                yield PairFiles(*paths, song.name)


def check(files: PairFiles) -> PairCheck:
    """The check of a pair, also of one that is refused."""
    try:
        return load_pair(files, lufs=None).check
    except PairError as error:
        return error.check


def verdicts(files: PairFiles, reference: PairCheck, folder: Path) -> Iterator[tuple[str, str]]:
    """Every case of a pair, and its verdict: "right", "reported" or "wrong"."""
    dry, wet = (read_audio(path)[0] for path in (files.dry_path, files.wet_path))
    wet = wet.expand(2, -1)
    for name, changed, lag, drift, signs in cases(wet):
        paths = folder / "dry.wav", folder / "wet.wav"
        for x, path in zip((dry, changed), paths, strict=True):
            write_audio(path, x, 44100)
        result = check(PairFiles(*paths, files.name))
        polarity = tuple(a * b for a, b in zip(reference.polarity, signs, strict=True))
        near = abs(result.lag_samples - reference.lag_samples - lag) <= (2.0 if drift else 0.5)
        right = near and abs(result.drift_ppm - reference.drift_ppm - drift) <= 5 and result.polarity == polarity
        reported = any(f.severity != NOTE or f.code in ("polarity_uncertain", "retimed") for f in result.findings)
        if name == "0 dB of other music":
            right = right and any(f.code == "foreign" for f in result.findings)
        yield name, "right" if right else "reported" if reported else "wrong"


def cases(wet: Tensor) -> Iterator[tuple[str, Tensor, float, float, tuple[int, int]]]:
    """Name, wet `(2, T)`, the lag in samples and the drift in ppm that were added, and the signs of the channels."""
    yield "as it is", wet, 0, 0, (1, 1)
    yield "inverted", -wet, 0, 0, (-1, -1)
    yield "one channel inverted", wet * torch.tensor([[1.0], [-1.0]]), 0, 0, (1, -1)
    for delay in DELAYS:
        yield f"{delay:g} samples later", delayed(wet, delay), delay, 0, (1, 1)
    for drift in DRIFTS:
        yield f"drift {drift:+d} ppm", drifting(wet, drift), 0, drift, (1, 1)
    # Reversed: the spectrum of the same music, but unrelated in time.
    other = wet.flip(1).roll(12345, 1)
    yield "0 dB of other music", wet + other * (wet.norm() / other.norm()), 0, 0, (1, 1)


def delayed(x: Tensor, samples: float) -> Tensor:
    """x (C, T) delayed by a number of samples, a fractional one by its phase response."""
    whole = int(samples)
    # The transform is circular: the zeros keep the end from reaching the beginning.
    x = torch.nn.functional.pad(x, (whole, 64))
    if samples == whole:
        return x[:, :-64]
    freq = torch.fft.rfftfreq(x.shape[-1])
    return torch.fft.irfft(torch.fft.rfft(x) * torch.exp(-2j * torch.pi * freq * (samples - whole)), x.shape[-1])


def drifting(x: Tensor, ppm: float) -> Tensor:
    """x (C, T) as sampled by a clock that is `ppm` off, by linear interpolation."""
    t = np.arange(x.shape[-1])
    return torch.from_numpy(np.stack([np.interp(t * (1 + 1e-6 * ppm), t, c) for c in x.numpy()])).float()


def time_of_check(pairs: list[PairFiles], folder: Path) -> tuple[float, float]:
    """Wall and CPU seconds of a check of 240 s, concatenated from the pairs: the fastest of three.

    The time of loading the pair without a check is subtracted.
    """
    loaded = [load_pair(files) for files in pairs]
    sides = [torch.cat([getattr(pair, side) for pair in loaded], dim=1) for side in ("dry", "wet")]
    paths = folder / "dry.wav", folder / "wet.wav"
    for x, path in zip(sides, paths, strict=True):
        x = torch.cat([x, x.flip(1)], dim=1)
        write_audio(path, x.repeat(1, 1 + 240 * 44100 // x.shape[1])[:, : 240 * 44100], 44100)
    files = PairFiles(*paths, "song")
    checked, plain = (min(clock(files, wrap) for _ in range(3)) for wrap in (False, True))
    return checked[0] - plain[0], checked[1] - plain[1]


def clock(files: PairFiles, wrap: bool) -> tuple[float, float]:
    """Wall and CPU seconds of loading a pair; without a check where the shift wraps."""
    wall, cpu = time.perf_counter(), time.process_time()
    pair: Pair = load_pair(files, wrap=wrap)
    assert pair.dry.shape[-1] > 0
    return time.perf_counter() - wall, time.process_time() - cpu


def parser() -> Parser:
    p = Parser(__doc__)
    p.add_argument("folders", metavar="FOLDER", type=file_path, nargs="+", help="folder of folders of pairs")
    p.add_argument("--json", metavar="F", type=file_path, help="file for the figures")
    return p


if __name__ == "__main__":
    sys.exit(main())
