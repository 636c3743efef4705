"""The impulse response from one signal to two by least squares, and the distance of a model's response from it.

A delay and a reverb are linear: what a recording says about them is its correlation with their input. The distance of
two responses in the metric of the input's autocorrelation is the energy of the difference that would be heard, and
costs two short Fourier transforms, however long the recordings are.
"""

import numpy as np
import torch
from scipy import ndimage, signal
from scipy.stats import theilslopes
from torch import Tensor

from reknob.afx.functional.fft import fast_length, irfft, rfft

BAND_HZ = (40, 16000)
SMOOTH_HZ = 400  # width of the average of the input's power spectrum by which frequencies are weighted
FLOOR = 1e-3  # of that average, relative to its mean
STEPS = 60  # of the conjugate gradients; more fit the noise
OCTAVES_HZ = np.array([90, 180, 355, 710, 1420, 2840, 5680, 11360])
FRAME_S, BEGINNING_S = 0.02, 0.05  # of the energies from which a decay is read
LEAST_FALL_DB = 6  # into the noise, that shows a decay


class ResponseEstimate:
    """The response h that minimises Σ w |Y - H X|², w the inverse of the input's smoothed power spectrum.

    Args:
        x: input (n, 1, T), in n excerpts.
        y: output (n, 2, T).
        sr: sample rate in Hz.
        length: of the response in samples.

    Attributes:
        h: the estimate, (2, length), float32.
        explained: share of the weighted energy of y that it explains.

    Source: the weights are those of a whitening filter.
    """

    def __init__(self, x: Tensor, y: Tensor, sr: int, length: int) -> None:
        self.sr = sr
        n = fast_length(x.shape[-1] + length)
        X, Y = torch.fft.rfft(x.double(), n), torch.fft.rfft(y.double(), n)
        power = X.abs().square().sum((0, 1))
        weight = whitening(power, n, sr)
        tiny = torch.finfo(torch.float64).tiny
        energy = torch.fft.irfft((Y.abs().square() * weight).sum((0, 1)), n)[0] + tiny
        self._correlation = torch.fft.irfft(power * weight, n)[:length] / energy
        cross = torch.fft.irfft((Y * X.conj()).sum(0) * weight, n)[:, :length] / energy
        h = least_squares(self._correlation, cross, STEPS)
        rest = cross - _filtered(h, *_metric(self._correlation))
        self.h, self.explained = h.float(), float((h * (cross + rest)).sum())

    def distance(self, samples: int, first: int = 0) -> "Distance":
        """The distance of responses from the estimate between two samples."""
        spectrum, n = _metric(self._correlation[:samples].float())
        return Distance(self.h[:, :samples], spectrum.clamp(min=0), n, first)


class Distance:
    """Energy of the difference of responses from a target from the sample `first` on, relative to the target's.

    Made by `ResponseEstimate.distance`.
    """

    def __init__(self, target: Tensor, spectrum: Tensor, n: int, first: int) -> None:
        self._spectrum, self._n, self._first = spectrum, n, first
        self.target = self._late(target)
        self._energy = self._of(self.target).clamp(min=torch.finfo(target.dtype).tiny)

    def _late(self, h: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(h[..., : self._first]), h[..., self._first :]], -1)

    def _of(self, h: Tensor) -> Tensor:
        return (h * _filtered(h, self._spectrum, self._n)).sum((-2, -1))

    def __call__(self, h: Tensor) -> Tensor:
        """Of responses (…, 2, samples), (…)."""
        return self._of(self._late(h) - self.target) / self._energy

    def left(self, h: Tensor) -> Tensor:
        """What a response (2, samples) leaves of the target, as its correlation with the input shows it.

        There, what the recording does not show is small, while in the target it is noise.
        """
        return _filtered(self.target - self._late(h), self._spectrum, self._n)

    def derivatives(self, h: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
        """Half the second derivatives (p, p), and half the negative gradient (p,), of the distance of a response.

        Args:
            h: the response (2, samples).
            slopes: its derivatives by p parameters, (p, 2, samples).
        """
        slopes = self._late(slopes)
        weighted = (_filtered(slopes, self._spectrum, self._n) / self._energy).flatten(1)
        curvature = (slopes.flatten(1) @ weighted.T).double()
        return (curvature + curvature.T) / 2, (weighted @ (self.target - self._late(h)).flatten()).double()


def whitening(power: Tensor, n: int, sr: int) -> Tensor:
    """The inverse of a power spectrum (bins,) averaged over frequency, 0 outside the audible band.

    `n` is the length of its transform.
    """
    smooth = ndimage.uniform_filter1d(power.double().numpy(), max(round(SMOOTH_HZ * n / sr), 1))
    f = np.fft.rfftfreq(n, 1 / sr)
    inside = (f > BAND_HZ[0]) & (f < min(BAND_HZ[1], 0.45 * sr))
    return torch.from_numpy(inside / (smooth + FLOOR * smooth.mean() + np.finfo(float).tiny)).to(power.dtype)


def least_squares(
    correlation: Tensor, cross: Tensor, steps: int, start: Tensor | None = None, first: int = 0
) -> Tensor:
    """Responses (…, L) whose convolution with an autocorrelation (L,) is nearest to cross-correlations (…, L).

    Args:
        steps: of the conjugate gradients.
        start: responses to begin with; zero by default.
        first: the first sample that is not zero.

    Source: conjugate gradients, Hestenes and Stiefel 1952.
    """
    metric, tiny = _metric(correlation), torch.finfo(cross.dtype).tiny

    def late(h: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(h[..., :first]), h[..., first:]], -1)

    h = torch.zeros_like(cross) if start is None else start
    rest = late(cross if start is None else cross - _filtered(start, *metric))
    direction, size = rest, rest.square().sum(-1, keepdim=True)
    for _ in range(steps):
        image = late(_filtered(direction, *metric))
        step = size / (direction * image).sum(-1, keepdim=True).clamp(min=tiny)
        h, rest = h + step * direction, rest - step * image
        new = rest.square().sum(-1, keepdim=True)
        direction, size = rest + new / size.clamp(min=tiny) * direction, new
    return h


def _metric(correlation: Tensor) -> tuple[Tensor, int]:
    """Real spectrum of an autocorrelation, given for non-negative lags, and the length of its transform."""
    length = len(correlation)
    n = fast_length(2 * length)
    both = torch.cat([correlation, correlation.new_zeros(n - 2 * length + 1), correlation[1:].flip(0)])
    return torch.fft.rfft(both).real, n


def _filtered(h: Tensor, spectrum: Tensor, n: int) -> Tensor:
    return irfft(rfft(h, n) * spectrum, n)[..., : h.shape[-1]]


def decay_times(h: Tensor, sr: int) -> tuple[np.ndarray, np.ndarray]:
    """Centre frequencies in Hz and reverberation times in s (60 dB) by octave of a response (2, samples).

    The slope of the level in frames of 20 ms, from 50 ms on until it nears the noise of the response's end, by the
    median of all slopes between two frames, which echoes do not move. An octave that shows no decay gets the time of
    its neighbours; there is no octave where none does.

    Source: Theil 1950, Sen 1968.
    """
    hop, centres, times, tiny = round(FRAME_S * sr), [], [], np.finfo(float).tiny
    for low, high in zip(OCTAVES_HZ, OCTAVES_HZ[1:], strict=False):
        if high >= 0.45 * sr:
            break
        band = signal.butter(3, [low, high], "bandpass", fs=sr, output="sos")
        energy = (signal.sosfiltfilt(band, h.double().numpy(), axis=-1) ** 2).sum(0)
        frames = energy[: len(energy) // hop * hop].reshape(-1, hop).mean(1)
        noise = np.median(frames[-len(frames) // 6 :])
        first = round(BEGINNING_S / FRAME_S)
        lost = np.flatnonzero(frames[first:] < 3 * noise)
        last = first + (int(lost[0]) if len(lost) else len(frames))
        level = 10 * np.log10(frames[first:last] + tiny)
        centres.append(np.sqrt(low * high))
        if len(level) > 4:
            slope = np.asarray(theilslopes(level, FRAME_S * np.arange(len(level))))[0]
        else:  # over too soon for a line: from the frame before the beginning to where the noise begins
            fall = 10 * np.log10((frames[first - 1] + tiny) / (3 * noise + tiny))
            slope = -fall / (FRAME_S * (last - first + 1)) if fall > LEAST_FALL_DB else np.nan
        times.append(-60 / slope if slope < 0 else np.nan)
    known = np.isfinite(times)
    if not known.any():
        return np.array([]), np.array([])
    return np.array(centres), np.interp(np.log(centres), np.log(centres)[known], np.array(times)[known])
