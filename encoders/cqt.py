"""Constant-Q transform: the magnitudes of nnAudio's CQT1992v2 from short convolutions at falling sample rates."""

import math
from typing import Any, NamedTuple

import numpy as np
import scipy  # not its part `signal`, which loads when it is first used
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reknob.runtime.errors import UsageError

LOWEST, N_BINS, PER_OCTAVE = 32.70, 113, 12  # from C1 in Hz to 21 kHz by semitones
HOP = 512  # samples between frames
OVERSAMPLING = 16  # Nyquist frequency over the highest bin of a group
RATIO = 4  # between two sample rates: each serves two octaves
TAPS, BETA = 256, 12.0  # low-pass before each decimation: 118 dB, 6 % of the lower rate's band as transition
PHASES = 16  # decimated samples of one convolution step, which makes the low-pass a matrix product


class Bin(NamedTuple):
    """One analysis frequency and the length of its kernel at the full sample rate."""

    freq: float  # Hz
    length: int  # samples


def bins(sr: int) -> list[Bin]:
    """Return the bins f_k = 32.7 2^(k/12), in Hz, of ceil(Q sr / f_k) samples, Q = 1 / (2^(1/12) - 1).

    Raises UsageError where the highest bin lies above the Nyquist frequency.
    """
    q = 1 / (2 ** (1 / PER_OCTAVE) - 1)
    freqs = [LOWEST * 2 ** (k / PER_OCTAVE) for k in range(N_BINS)]
    if freqs[-1] > sr / 2:
        raise UsageError(f"a sample rate of {sr} Hz is too low for bins up to {freqs[-1]:.0f} Hz; resample to 44100 Hz")
    return [Bin(f, math.ceil(q * sr / f)) for f in freqs]


def kernel(b: Bin, sr: int, n: np.ndarray) -> np.ndarray:
    """Return a bin's kernel at the sample offsets n from the frame's centre, complex128.

    k[n] = sqrt(l) w[n] exp(-2 pi i f n / sr) / sum(w), w the periodic Hann window of length l that begins at
    -ceil(l / 2); zero elsewhere (Brown 1991, eq. 5; the factor sqrt(l) is librosa's).
    """
    phase = (n + (b.length + 1) // 2) / b.length
    window = np.where((phase >= 0) & (phase < 1), 0.5 - 0.5 * np.cos(2 * np.pi * phase), 0.0)
    return window * np.exp(-2j * np.pi * b.freq / sr * n) * (2 / math.sqrt(b.length))


def decimator() -> np.ndarray:
    """Return the low-pass in front of a decimation by RATIO, one row for each of PHASES successive output samples."""
    window: Any = ("kaiser", BETA)  # scipy's stub allows a name only
    taps = scipy.signal.firwin(TAPS + 1, 1 / RATIO, window=window)
    rows = np.zeros((PHASES, RATIO * (PHASES - 1) + TAPS + 1))
    for i, row in enumerate(rows):
        row[RATIO * i:RATIO * i + TAPS + 1] = taps
    return rows


class CQT(nn.Module):
    """Constant-Q magnitudes |sum_n x[512 t + n] k[n]| of a waveform: (B, N) -> (B, 113, N // 512 + 1).

    Frames are centred and the ends reflected. A long kernel is narrow in frequency, so it is applied at a lower rate:
    for each octave the signal is decimated by `step` = 1, 4, 16, ... and the kernel sampled at every `step`-th sample.
    The only loss are the side lobes of the Hann window beyond OVERSAMPLING times the octave's highest frequency, which
    fall with the cube of the distance: against a dense float64 evaluation the relative error is 4e-7, less than that
    of the dense convolution in float32. The gradient at a magnitude of 0 is 0.

    Shapes: x (B, N) is padded to (B, N + 2 pad), decimated where the next octave allows a larger step, and convolved
    with the kernels (24, 1, length) of an octave, 12 real and 12 imaginary parts, to (B, 24, N // 512 + 1).

    Raises UsageError for a sample rate below twice the highest bin and for an excerpt shorter than half a kernel.
    """

    lowpass: Tensor  # (PHASES, 1, taps)

    def __init__(self, sr: int = 44100) -> None:
        super().__init__()
        table = bins(sr)
        self.steps: list[int] = []  # decimation of each octave, the highest octave first
        for end in range(N_BINS, 0, -PER_OCTAVE):
            members = table[max(end - PER_OCTAVE, 0):end]
            step = 1
            while HOP % (RATIO * step) == 0 and sr / 2 >= OVERSAMPLING * RATIO * step * members[-1].freq:
                step *= RATIO
            reach = step * math.ceil(members[0].length / 2 / step)
            n = np.arange(-reach, reach + 1, step)
            # A sum over every step-th sample replaces the sum over all, which is `step` times as large.
            kernels = step * np.stack([kernel(b, sr, n) for b in members])
            self._add_buffer(f"kernels{len(self.steps)}", np.concatenate([np.real(kernels), np.imag(kernels)]))
            self.steps.append(step)
        self._add_buffer("lowpass", decimator())
        margin = sum(TAPS // 2 * step // RATIO for step in set(self.steps) if step > 1)  # reach of the low-passes
        self.pad = max(self.steps) * math.ceil((table[0].length / 2 + margin) / max(self.steps))

    def _add_buffer(self, name: str, rows: np.ndarray) -> None:
        self.register_buffer(name, torch.tensor(rows[:, None], dtype=torch.float32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[-1]
        if n <= self.pad:
            raise UsageError(f"an excerpt of {n} samples is too short for the constant-Q transform; "
                             f"give more than {self.pad} samples")
        # Half precision would lose the quiet bins: their squared magnitudes underflow.
        with torch.autocast(x.device.type, enabled=False):
            x = F.pad(x, (self.pad, self.pad), mode="reflect")
            octaves = []
            rate = 1
            for i, step in enumerate(self.steps):
                while rate < step:
                    x, rate = self._decimate(x), RATIO * rate
                octaves.append(self._magnitudes(x, step, self.get_buffer(f"kernels{i}"), n // HOP + 1))
            return torch.cat(octaves[::-1], dim=1)

    def _decimate(self, x: Tensor) -> Tensor:
        """Low-pass and keep samples 0, RATIO, 2 RATIO, ...: (B, N) -> (B, N'), N' >= N / RATIO (zeros at the end)."""
        block = RATIO * PHASES
        n_blocks = math.ceil(x.shape[-1] / block)
        x = F.pad(x, (TAPS // 2, block * n_blocks + TAPS // 2 - x.shape[-1]))
        return F.conv1d(x[:, None], self.lowpass, stride=block).transpose(1, 2).flatten(1)

    def _magnitudes(self, x: Tensor, step: int, kernels: Tensor, n_frames: int) -> Tensor:
        hop, length = HOP // step, kernels.shape[-1]
        start = self.pad // step - length // 2
        y = F.conv1d(x[:, None, start:start + (n_frames - 1) * hop + length], kernels, stride=hop)
        real, imag = y.chunk(2, dim=1)
        # Below the clamp the gradient is 0; the square root alone has an infinite one at 0.
        return (real.square() + imag.square()).clamp_min(1e-30).sqrt()
