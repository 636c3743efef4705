"""Reverbs: the feedback delay network, noise that decays by frequency, and a plain FIR."""

import copy
import math
from collections.abc import Sequence
from typing import ClassVar, NotRequired, Self, TypedDict, Unpack

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reknob.afx import kernels
from reknob.runtime.errors import UsageError

from .chain import Serial, cascade_coefs
from .curve import FREQUENCIES, Curve
from .effect import Effect, Part, Tensors, Values
from .eq import Biquad
from .functional import biquad, convolve, fdn
from .options import Choice, Flag, Integer, Integers, Number
from .param import Ceilings, Free, Linear, Negative, Orthogonal, Param, RawNormal, Uniform
from .stages import Stage, at_once, convolution, overlapping

RENDERS = ("fs", "realtime")
SILENT_NP = -80.0  # level of a reverb that is off: below the rounding of float32
# Primes, so that the echoes of different lines rarely coincide.
LINES = (997, 1153, 1327, 1559, 1801, 2099)


class NetworkValues(TypedDict):
    """The values of a feedback delay network with M lines, without its equaliser."""

    b: Tensor
    c: Tensor
    gamma: Tensor
    U: Tensor
    delays: NotRequired[Tensor]


class FDNValues(NetworkValues):
    """The values of a feedback delay network."""

    eq: NotRequired[Values]


class FDN(Effect):
    """Feedback delay network, stereo to stereo, with an orthogonal feedback matrix and a frequency-dependent decay.

    Args:
        render: "fs", sampled in frequency over `ir_duration`; "realtime", sample by sample, no gradient.
        delays: lengths of the lines in samples.
        bands: number of equally spaced frequencies, 0 to Nyquist, at which the decay is a parameter.
        shared_decay: one decay curve for all lines, or one for each.
        trainable_delays: whether the lengths are parameters.
        eq: biquads after the network, or None.
        ir_duration: length of the response in s.

    Source: DiffVox, arXiv 2504.14735.
    """

    label, family = "FDN", "reverb"
    realtime_options: ClassVar = {"render": "realtime"}
    # Longest reverberation time (60 dB), relative to the length of the response, beyond which the tail wraps around.
    LONGEST_SHARE = 0.75
    options = {
        "render": Choice(RENDERS),
        "delays": Integers(1, 100_000, 32, "samples"),
        "bands": Integer(1, 1025),
        "shared_decay": Flag(),
        "trainable_delays": Flag(),
        "eq": Part(Serial, of=Biquad),
        "ir_duration": Number(0.01, 60, "s"),
    }
    output_channels = 2

    lines: Tensor

    def __init__(
        self,
        sr: int,
        *,
        render: str = "fs",
        delays: Sequence[int] = LINES,
        bands: int = 49,
        shared_decay: bool = True,
        trainable_delays: bool = False,
        eq: Serial | None = None,
        ir_duration: float = 12.0,
        **overrides: dict,
    ) -> None:
        if render not in RENDERS:
            raise UsageError(f"unknown render {render!r}; known: {', '.join(RENDERS)}")
        if max(delays) >= ir_duration * sr:
            raise UsageError(
                f"delays: a line of {max(delays)} samples is longer than the response, ir_duration={ir_duration:g} s; "
                "give shorter lines, or a longer response"
            )
        lines = len(delays)
        decay = tuple(10 ** (-3 * m / (sr * self.LONGEST_SHARE * ir_duration)) for m in delays)
        # Defaults are drawn around 0.5 or, for a short response with a lower limit of the gain, around half the limit.
        start = 1.0 if min(decay) > 0.6 else min(decay)
        # A shared γ is that of the shortest line, from which fdn.line_gains derives the others.
        highest = Linear(0, decay[delays.index(min(delays))]) if shared_decay else Ceilings(decay)
        self.params = (
            Param("b", "", 1 / lines, Free(), (lines, 2), ambiguous=True),
            # A fit begins without reverb: only c has a gradient until it has left 0.
            Param("c", "", 0.0, Free(), (2, lines), ambiguous=True),
            Param("gamma", "", Uniform(0.4 * start, 0.6 * start), highest, (bands, 1 if shared_decay else lines)),
            # Standard deviation 1/√M: the norm of the skew-symmetric matrix hardly depends on the number of lines.
            Param("U", "", RawNormal(1 / math.sqrt(lines)), Orthogonal(), (lines, lines), ambiguous=True),
            *([Param("delays", "samples", tuple(delays), Free(), (lines,))] if trainable_delays else []),
        )
        super().__init__(sr, **overrides)
        self.render, self.shared_decay = render, shared_decay
        self.ir_length, self.truncated = int(ir_duration * sr), False
        # Not persistent: the lengths are an option, which a state dict would only repeat.
        self.register_buffer("lines", torch.tensor(delays), persistent=False)
        if eq is not None:
            self.eq = eq

    @property
    def runs_by_sample(self) -> bool:
        return self.render == "realtime"

    @property
    def grouped(self) -> bool:
        return not self.runs_by_sample

    def off_values(self) -> dict[str, float]:
        return {"c": 0.0}

    def decay_gains(self, seconds: Tensor) -> Tensor:
        """γ of reverberation times (60 dB) in s at the bands, from (bands,) to the shape of γ."""
        samples = self.lines.min()[None] if self.shared_decay else self.lines
        return 10 ** (-3 * samples / (self.sr * seconds.unsqueeze(-1)))

    def curves(self, values: FDNValues) -> list[Curve]:
        """Reverberation time (60 dB) over frequency; of the first line where each line has its own decay."""
        gamma = values["gamma"].detach()[:, 0].double().cpu().numpy()
        # Above 16 kHz recordings have little energy, and a fit hardly changes the decay there.
        frequencies = FREQUENCIES[FREQUENCIES < 16000]
        gamma = np.interp(frequencies, np.linspace(0, self.sr / 2, len(gamma)), gamma)
        lines = values.get("delays", self.lines)
        samples = float((lines.min() if self.shared_decay else lines[0]).detach())
        seconds = -3 * samples / self.sr / np.log10(gamma)
        return [Curve("Reverb decay by 60 dB", "frequency (Hz)", "time (s)", frequencies, seconds)]

    def stage(self, values: FDNValues) -> Stage:
        if not self.runs_by_sample:
            return convolution(self.response(**values))
        state = kernels.FdnState.fresh(1, self._lengths(values), 2 * values["gamma"].shape[-2] - 1)
        eq = self.eq.stage(values["eq"]) if "eq" in values else None

        def process(x: Tensor, last: bool) -> Tensor:
            y = self.realtime(x.expand(2, -1).unsqueeze(0), values, state).squeeze(0)
            return eq(y, last) if eq else y

        return process

    def forward(self, x: Tensor, **values: Unpack[FDNValues]) -> Tensor:
        x = x.expand(-1, 2, -1)
        if self.runs_by_sample:
            y = self.realtime(x, values)
            return self.eq(y, **values["eq"]) if "eq" in values else y
        return convolve.convolve(x, self.response(**values))

    def realtime(self, x: Tensor, values: FDNValues, state: kernels.FdnState | None = None) -> Tensor:
        """The sample-by-sample form without the equaliser, (B, 2, T) to (B, 2, T), with linear-phase decay filters.

        Without gradients. A `state`, for one item, is updated in place and continues from block to block.
        """
        lengths = self._lengths(values)
        fir = fdn.decay_fir(values["gamma"], lengths, self.shared_decay)
        U, b, c = (t.reshape(-1, *t.shape[-2:]) for t in (values["U"], values["b"], values["c"]))
        return kernels.realtime_fdn(x, U, b, c, lengths, fir.reshape(-1, *fir.shape[-2:]), state)

    def _lengths(self, values: FDNValues) -> Tensor:
        """Lengths of the lines in whole samples, (B or 1, M)."""
        return values.get("delays", self.lines).round().long().reshape(-1, len(self.lines))

    def response(self, *, eq: Values | None = None, **network: Unpack[NetworkValues]) -> Tensor:
        """Impulse response from stereo to stereo, (…, 2, 2, ir_length)."""
        h = self.network(**network)
        if eq is None:
            return h
        # Filtered as audio: the four paths are the channels.
        rows = h.reshape(-1, 4, h.shape[-1])
        return biquad.cascade(rows, cascade_coefs(self.eq.parts(), eq)).reshape(h.shape)

    def network(self, **values: Unpack[NetworkValues]) -> Tensor:
        """Impulse response without the equaliser, (…, 2, 2, ir_length)."""
        delays = values.get("delays", self.lines)
        gains = fdn.line_gains(values["gamma"], delays, self.ir_length // 2 + 1, self.shared_decay)
        network = values["U"], values["b"], values["c"], delays
        return fdn.impulse_response(gains, *network, self.ir_length, truncated=self.truncated)

    @property
    def response_start(self) -> int:
        return 0 if any(p.name == "delays" for p in self.params) else int(self.lines.min())

    def shortened(self, samples: int) -> Self:
        short = copy.deepcopy(self)
        short.ir_length, short.truncated = samples, True
        return short


class NoiseReverb(Effect):
    """Convolution with noise of a level and a decay per frequency, stereo to stereo, in the STFT domain.

    Each bin of the input's STFT is convolved along frames k with e^(level + decay·k + i·phase), for mid and side. The
    phases are drawn from `seed` and not fitted, so that a preset, which does not store them, reproduces the fit. (The
    release draws them at every construction and trains them.)

    Args:
        ir_length: samples of the response. n_fft, hop: of the STFT (Hann window, centred).
        seed: of the phases.
        downsample_factor: bins per frequency at which level and decay are parameters; linear in between.

    Source: the reverb of the public DiffVox release.
    """

    label, family = "REV", "reverb"
    options = {
        "ir_length": Integer(2, 10_000_000, "samples"),
        "n_fft": Integer(2, 65536, "samples"),
        "hop": Integer(1, 32768, "samples"),
        "downsample_factor": Integer(1, 1024),
        "seed": Integer(0, 2**63 - 1),
    }
    output_channels = 2
    # Of the STFT of the noise: bins times frames.
    MAX_BINS = 10_000_000

    def __init__(
        self,
        sr: int,
        *,
        ir_length: int = 60000,
        n_fft: int = 384,
        hop: int = 192,
        downsample_factor: int = 1,
        seed: int = 0,
        **overrides: dict,
    ) -> None:
        if ir_length < n_fft:
            raise UsageError(f"ir_length={ir_length}: shorter than a frame, n_fft={n_fft}")
        # istft divides by the sum of the squared windows, which nears 0 between frames more than half a frame apart.
        if not n_fft // 4 <= 2 * hop <= n_fft:
            lowest, highest = max(n_fft // 8, 1), n_fft // 2
            raise UsageError(f"hop={hop}: give {lowest} to {highest}, an eighth to half of n_fft={n_fft}")
        bins, frames = n_fft // 2 + 1, (ir_length - n_fft) // hop + 1
        if bins * frames > self.MAX_BINS:
            raise UsageError(f"ir_length={ir_length}: gives {bins} bins x {frames} frames; at most {self.MAX_BINS}")
        knots = n_fft // downsample_factor // 2 + 1
        self.params = (
            Param("level", "Np", -1.0, Negative(), (2, knots)),
            Param("decay", "Np/frame", -5.0, Negative(), (2, knots)),
            Param("phase", "rad", Uniform(0, 2 * math.pi, seed), Free(), (2, bins, frames), preset=False),
        )
        super().__init__(sr, **overrides)
        self.n_fft, self.hop = n_fft, hop

    def stage(self, values: Tensors) -> Stage:
        # Frames are aligned with the beginning of the recording, and the last ones are extended by reflection.
        return at_once(self, values)

    def off_values(self) -> dict[str, float]:
        return {"level": SILENT_NP}

    def forward(self, x: Tensor, *, level: Tensor, decay: Tensor, phase: Tensor) -> Tensor:
        if self.training:
            phase = phase.detach()
        level, decay = (self._at_every_bin(curve) for curve in (level, decay))
        k = torch.arange(phase.shape[-1], dtype=x.dtype, device=x.device)
        # Not polar(magnitude, phase), whose gradient divides by the magnitude: it overflows for denormal numbers.
        magnitude = torch.exp(level.unsqueeze(-1) + decay.unsqueeze(-1) * k)
        mid, side = (magnitude * torch.polar(torch.ones_like(phase), phase)).unbind(-3)
        noise = torch.stack([mid + side, mid - side], -3) / math.sqrt(2)
        window = torch.hann_window(self.n_fft, dtype=x.dtype, device=x.device)
        rows = x.expand(-1, 2, -1).reshape(-1, x.shape[-1])
        X = torch.stft(rows, self.n_fft, self.hop, window=window, return_complex=True)
        X = X.reshape(-1, 2, *X.shape[1:])
        # Linear convolution along frames, by an FFT over the frames of each bin.
        n = X.shape[-1] + noise.shape[-1] - 1
        Y = torch.fft.ifft(torch.fft.fft(X, n=n) * torch.fft.fft(noise, n=n))[..., : X.shape[-1]]
        y = torch.istft(Y.flatten(0, 1), self.n_fft, self.hop, window=window, length=x.shape[-1])
        return y.reshape(-1, 2, x.shape[-1])

    def _at_every_bin(self, curve: Tensor) -> Tensor:
        """A curve interpolated linearly from its knots to the bins, (…, 2, knots) to (…, 2, bins)."""
        bins = self.n_fft // 2 + 1
        if curve.shape[-1] == bins:
            return curve
        rows = curve.reshape(-1, 2, curve.shape[-1])
        return F.interpolate(rows, bins, mode="linear", align_corners=True).reshape(*curve.shape[:-1], bins)


class FIR(Effect):
    """An FIR filter whose taps are the parameters, applied to every channel; the default is the identity.

    Args:
        length: number of taps.
    """

    label = "FIR"
    options = {"length": Integer(1, 1_000_000, "taps")}

    def __init__(self, sr: int, *, length: int = 1024, **overrides: dict) -> None:
        self.params = (Param("taps", "", identity(length), Free(), (length,)),)
        super().__init__(sr, **overrides)

    def stage(self, values: Tensors) -> Stage:
        return overlapping(self, values, memory=values["taps"].shape[-1] - 1)

    def off_values(self) -> dict[str, tuple[float, ...]]:
        return {"taps": identity(*self.params[0].shape)}

    def forward(self, x: Tensor, *, taps: Tensor) -> Tensor:
        rows = x.flatten(0, 1).unsqueeze(1)
        # Taps per item are repeated for its channels, which are rows of one channel here.
        h = taps if taps.dim() == 1 else taps.repeat_interleave(x.shape[1], 0)
        return convolve.convolve(rows, h[..., None, None, :]).reshape(x.shape)


def identity(length: int) -> tuple[float, ...]:
    """Taps of the filter that leaves its input unchanged."""
    return (1.0, *(0.0,) * (length - 1))
