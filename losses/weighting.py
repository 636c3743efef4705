"""A-weighting as a short linear-phase filter."""

import functools

import scipy  # not its part `signal`, which loads when it is first used
import torch
from torch import Tensor

# Pole frequencies in Hz and the gain in dB that makes 1 kHz pass unchanged: IEC 61672-1, annex E.
POLES_HZ = (20.598997, 20.598997, 107.65265, 737.86223, 12194.217, 12194.217)
GAIN_AT_1KHZ_DB = 1.9997


@functools.cache
def a_weighting_fir(sr: int, taps: int = 101) -> Tensor:
    """Taps (taps,), float32, of the symmetric FIR filter that fits the A-weighting curve at `sr` Hz.

    The analogue filter s^4 (2 pi f4)^2 g / prod(s + 2 pi f_i) goes through the bilinear transform; its magnitude at
    512 equally spaced frequencies, taken as the ends of 256 bands, is fitted by least squares.
    Source: IEC 61672-1; Wright and Välimäki, "Perceptual loss function for neural modelling of audio systems",
    ICASSP 2020. The fit is that of auraloss 0.4.0, whose values the published loss has.
    """
    poles = [-2 * torch.pi * f for f in POLES_HZ]
    gain = poles[-1] ** 2 * 10 ** (GAIN_AT_1KHZ_DB / 20)
    freq, response = scipy.signal.freqz_zpk(*scipy.signal.bilinear_zpk([0.0] * 4, poles, gain, sr), worN=512, fs=sr)
    # Only the magnitude is fitted: symmetric taps have zero phase once their delay is removed.
    return torch.from_numpy(scipy.signal.firls(taps, freq, abs(response), fs=sr)).float()
