"""The published vocal chain built plainly from the public libraries: the reference for our speed.

Biquads are torchlpc's, level average and compressor gain torchcomp's, the FDN's response is a `torch.linalg.solve` per
bin, convolutions are torch_fftconv's: the structure of the release, without further optimisation. Parameters and their
mappings, which take next to no time, are those of our chain: `values` are what its `Knobs` give for an effect. Source:
DiffVox, arXiv 2504.14735.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_fftconv import fft_conv1d
from torchcomp import avg, compexp_gain, db2amp
from torchlpc import sample_wise_lpc

from reknob.afx.effect import Tensors, Values, own_values, part_values
from reknob.afx.functional.level import rise_to_coef

SR = 44100
FDN_DELAYS = (997, 1153, 1327, 1559, 1801, 2099)
DELAY_SAMPLES, FDN_SAMPLES = 4 * SR, 12 * SR  # of the responses
SHELF_Q = 0.7070000171661377  # a float32 number in the release
Section = tuple[Tensor, Tensor]


def causal_convolve(x: Tensor, ir: Tensor) -> Tensor:
    """Convolve x (B, I, T) with ir (O, I, N), cut to T samples -> (B, O, T)."""
    return fft_conv1d(F.pad(x, (ir.shape[-1] - 1, 0)), ir.flip(-1))


def biquad(x: Tensor, b: Tensor, a: Tensor) -> Tensor:
    """Filter x (..., T) with coefficients b and a, (3,) each: three taps, then torchlpc's recursion."""
    rows = x.reshape(-1, x.shape[-1])
    b, a = b / a[0], a[1:] / a[0]
    fir = b[0] * rows + b[1] * F.pad(rows, (1, -1)) + b[2] * F.pad(rows, (2, -2))
    return sample_wise_lpc(fir, a.expand(*rows.shape, 2)).reshape(x.shape)


def peak_coefs(freq: Tensor, Q: Tensor, gain: Tensor) -> Section:
    """Peak filter of the RBJ cookbook from Hz, Q and dB: (b, a), (3,) each."""
    w0, amp = 2 * math.pi * freq / SR, 10 ** (gain / 40)
    cos, alpha = w0.cos(), w0.sin() / (2 * Q)
    b = torch.stack([1 + alpha * amp, -2 * cos, 1 - alpha * amp])
    return b, torch.stack([1 + alpha / amp, -2 * cos, 1 - alpha / amp])


def shelf_coefs(freq: Tensor, gain: Tensor, *, high: bool) -> Section:
    """Low or high shelf of the RBJ cookbook from Hz and dB: (b, a), (3,) each."""
    w0, amp = 2 * math.pi * freq / SR, 10 ** (gain / 40)
    cos, root = (-1 if high else 1) * w0.cos(), amp.sqrt() * w0.sin() / SHELF_Q
    up, down = amp + 1, amp - 1
    sign = torch.tensor([1, -1 if high else 1, 1], dtype=cos.dtype, device=cos.device)
    b = amp * torch.stack([up - down * cos + root, 2 * (down - up * cos), up - down * cos - root])
    return sign * b, sign * torch.stack([up + down * cos + root, -2 * (down + up * cos), up + down * cos - root])


def pass_coefs(freq: Tensor, Q: Tensor, *, high: bool) -> Section:
    """Low or high pass of the RBJ cookbook from Hz and Q: (b, a), (3,) each."""
    w0 = 2 * math.pi * freq / SR
    cos, alpha = w0.cos(), w0.sin() / (2 * Q)
    b0, b1 = ((1 + cos) / 2, -1 - cos) if high else ((1 - cos) / 2, 1 - cos)
    return torch.stack([b0, b1, b0]), torch.stack([1 + alpha, -2 * cos, 1 - alpha])


#: By the names of the bands in our chain and in its reverb.
COEFS: dict[str, Callable[..., Section]] = {
    "peak1": peak_coefs,
    "peak2": peak_coefs,
    "low_shelf": partial(shelf_coefs, high=False),
    "high_shelf": partial(shelf_coefs, high=True),
    "low_pass": partial(pass_coefs, high=False),
    "high_pass": partial(pass_coefs, high=True),
}


def equalise(x: Tensor, values: Values) -> Tensor:
    """Filter x (..., T) with bands in series."""
    for name in values:
        x = biquad(x, *COEFS[name](**part_values(values, name)))
    return x


def pan(x: Tensor, position: Tensor) -> Tensor:
    """Pan x (B, 1 or 2, T) to stereo by a position in 0..1 with constant power, 0 dB at the centre."""
    angle = position * math.pi / 2
    return x * (math.sqrt(2) * torch.stack([angle.cos(), angle.sin()])).unsqueeze(-1)


def compressor_gain(
    x: Tensor,
    average: Tensor,
    cmp_th: Tensor,
    cmp_ratio: Tensor,
    exp_th: Tensor,
    exp_ratio: Tensor,
    at: Tensor,
    rt: Tensor,
) -> Tensor:
    """The gain (B, T) of a compressor and expander for x (B, T): thresholds in dB, one-pole coefficients."""
    level = avg(x.square().clamp_min(1e-8), average).sqrt()
    return compexp_gain(level, cmp_th, cmp_ratio, exp_th, exp_ratio, at, rt)


def compress(x: Tensor, values: Tensors) -> Tensor:
    """Compress and expand x (B, 1, T), the gain advanced by a sinc filter."""
    names = ("avg_coef", "cmp_threshold", "cmp_ratio", "exp_threshold", "exp_ratio")
    times = (rise_to_coef(values[name], SR) for name in ("attack", "release"))
    gain = compressor_gain(x.squeeze(1), *(values[name] for name in names), *times).unsqueeze(1)
    before, taps = SR // 1000, SR * 16 // 1000 + 1
    index = torch.arange(-before, taps - before, dtype=x.dtype, device=x.device)
    advance = torch.sinc(index - values["lookahead"] * SR / 1000)
    gain = F.conv1d(F.pad(gain, (before, taps - before - 1), mode="replicate"), advance[None, None])
    return x * gain * db2amp(values["makeup"])


def echo_sums(H: Tensor, feedback: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Sum the spectra feedback^(k-1) H^k of odd and of even echoes k = 1..count; H (F,), powers in polar form."""
    k = torch.arange(1, count + 1, dtype=feedback.dtype, device=H.device).unsqueeze(1)
    echoes = torch.polar(feedback ** (k - 1) * H.abs() ** k, k * H.angle())
    return echoes[::2].sum(0), echoes[1::2].sum(0)


def delay_tap(n: int, samples: Tensor, damping: Tensor | None) -> Tensor:
    """Tap of the delay on n points, a sinc at `samples`; with `damping` its gradient is a damped exponential's."""
    exact = torch.sinc(torch.arange(n, dtype=samples.dtype, device=samples.device) - samples)
    if damping is None:
        return exact
    bins = torch.arange(n // 2 + 1, dtype=samples.dtype, device=samples.device)
    damped = torch.fft.irfft(torch.polar(torch.exp(damping * bins), -2 * math.pi / n * bins * samples), n=n)
    return damped + (exact - damped).detach()


def delay(x: Tensor, values: Values) -> Tensor:
    """Ping-pong delay of x (B, 1, T) by a response of 4 s -> (B, 2, T)."""
    own, n = own_values(values), DELAY_SAMPLES
    # As in the release; ours computes with it in float64.
    samples = own["delay"].to(x.dtype) * SR / 1000
    tap = biquad(delay_tap(n, samples, own.get("damping")), *COEFS["low_pass"](**part_values(values, "eq")))
    echoes = echo_sums(torch.fft.rfft(tap), own["feedback"], n // int(samples + 1))
    odd, even = torch.fft.irfft(torch.stack(echoes), n=n)[:, None, None]
    odd_pan, even_pan = (own_values(part_values(values, name))["pan"] for name in ("odd_pan", "even_pan"))
    ir = own["gain"] * (pan(odd, odd_pan) + pan(even, even_pan))
    return causal_convolve(x, ir.transpose(0, 1))


def network(values: Tensors) -> Tensor:
    """Impulse responses (2, 2, 12 s) of the FDN without its equaliser.

    c (diag(e^{iwm}) - U diag(gain))^-1 b per bin, the decay interpolated to the bins, and raised to each line's share
    of the shortest.
    """
    U, b, c, gamma, n = values["U"], values["b"], values["c"], values["gamma"], FDN_SAMPLES
    delays = torch.tensor(FDN_DELAYS, device=U.device)
    curve = F.interpolate(gamma.T.unsqueeze(0), n // 2 + 1, mode="linear", align_corners=True).squeeze(0)
    gains = curve ** (delays / delays.min()).to(gamma.dtype).unsqueeze(1)
    phase = (2 * math.pi / n * torch.arange(n // 2 + 1, dtype=U.dtype, device=U.device)).unsqueeze(1) * delays
    H = solved(torch.diag_embed(torch.polar(torch.ones_like(phase), phase)), U, gains, b, c)
    return torch.fft.irfft(H.permute(1, 2, 0), n=n)


def solved(phasors: Tensor, U: Tensor, gains: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """c (phasors - U diag(gains))^-1 b per bin: phasors (F, M, M), U (M, M), gains (M, F) -> (F, O, I)."""
    loop = phasors - U * gains.T.unsqueeze(1)
    return c.to(loop.dtype) @ torch.linalg.solve(loop, b.to(loop.dtype))


def reverb(x: Tensor, values: Values) -> Tensor:
    """Feedback delay network with its equaliser, (B, 2, T) -> (B, 2, T)."""
    return causal_convolve(x, equalise(network(own_values(values)), part_values(values, "eq")))


def sends(x: Tensor, values: Values) -> Tensor:
    """Panned direct path, delay and FDN in parallel, with a send from the delay into the FDN; to (B, 2, T)."""
    echoes, own = delay(x, part_values(values, "delay")), own_values(values)
    direct = pan(x, own_values(part_values(values, "direct"))["pan"])
    return direct + echoes + reverb(x + own["delay_to_reverb"] * echoes, part_values(values, "reverb"))


def render(x: Tensor, values: Values) -> Tensor:
    """The whole chain of six biquads, compressor/expander and sends, in training: x (B, 1, T) -> (B, 2, T)."""
    compressed = compress(equalise(x, {name: values[name] for name in COEFS}), own_values(part_values(values, "comp")))
    return sends(compressed, part_values(values, "sends"))
