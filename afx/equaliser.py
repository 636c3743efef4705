"""The equalisers of blind estimation: parametric with 5 bands, graphic with 10.

Source: BE-AFX, arXiv 2310.11781.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from reknob.runtime.errors import UsageError

from .chain import Normalised
from .eq import Biquad
from .functional import biquad
from .param import Linear, Log, Param

#: Coefficients (…, 5) from frequency in Hz, Q, gain in dB and sample rate.
Design: TypeAlias = Callable[[Tensor, Tensor, Tensor, int], Tensor]
GAIN = Param("gain", "dB", 0.0, Linear(-15, 15))


class Band(Biquad):
    """One band of a parametric equaliser.

    Args:
        design: the function that computes its coefficients.
    """

    # Logarithmic: equal steps of the control are equal musical intervals.
    params = (Param("freq", "Hz", 1000.0, Log(20, 20000)), GAIN, Param("Q", "", 0.7, Linear(0.1, 2)))

    def __init__(self, sr: int, *, design: Design, **overrides: dict) -> None:
        super().__init__(sr, **overrides)
        self.design = design

    def coefs(self, *, freq: Tensor, gain: Tensor, Q: Tensor) -> Tensor:
        return self.design(freq, Q, gain, self.sr)


class FixedBand(Biquad):
    """One band of a graphic equaliser, whose only parameter is the gain.

    Args:
        design: the function that computes its coefficients.
        freq: its centre or corner frequency in Hz.
        octaves: its bandwidth: Q = 1 / (2·sinh(ln 2 / 2 · octaves · ω0 / sin ω0)), as in the RBJ cookbook.
    """

    params = (GAIN,)
    freq: Tensor
    Q: Tensor

    def __init__(self, sr: int, *, design: Design, freq: float, octaves: float, **overrides: dict) -> None:
        super().__init__(sr, **overrides)
        if freq >= sr / 2:
            raise UsageError(f"a band at {freq:g} Hz lies beyond half the sample rate of {sr} Hz; use a higher rate")
        self.design = design
        omega = 2 * math.pi * freq / sr
        # Computed once, in Python: neither the frequency nor the bandwidth is a parameter. Buffers follow the chain to
        # a device.
        Q = 0.5 / math.sinh(math.log(2) / 2 * octaves * omega / math.sin(omega))
        self.register_buffer("freq", torch.tensor(freq, dtype=torch.float64), persistent=False)
        self.register_buffer("Q", torch.tensor(Q, dtype=torch.float64), persistent=False)

    def coefs(self, *, gain: Tensor) -> Tensor:
        return self.design(self.freq, self.Q, gain, self.sr)


def parametric_equaliser(sr: int) -> Normalised:
    """Low shelf, three peaks, high shelf: 15 parameters."""
    ranges = {
        "low_shelf": (biquad.low_shelf, 30, 160),
        "peak1": (biquad.peak, 100, 2000),
        "peak2": (biquad.peak, 500, 6000),
        "peak3": (biquad.peak, 2000, 16000),
        "high_shelf": (biquad.high_shelf, 5000, 20000),
    }
    bands = {}
    for name, (design, lo, hi) in ranges.items():
        # The geometric mean is the middle of a logarithmic range, a control of 0.5.
        bands[name] = Band(sr, design=design, freq={"range": [lo, hi], "default": math.sqrt(lo * hi)})
    # Not Serial: in the published chain every band is an effect, so the signal is normalised between bands too.
    return Normalised(sr, **bands)


def graphic_equaliser(sr: int) -> Normalised:
    """Ten bands at octaves from 31.25 Hz to 16 kHz, the outer two shelves: 10 parameters, their gains."""
    freqs = [31.25 * 2**k for k in range(10)]
    designs = [biquad.low_shelf, *[biquad.peak] * 8, biquad.high_shelf]
    bands = zip(freqs, designs, strict=True)
    return Normalised(sr, **{f"band_{int(f)}": FixedBand(sr, design=design, freq=f, octaves=2) for f, design in bands})
