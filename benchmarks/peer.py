"""The published vocal chain built plainly from the public libraries: the reference for our speed.

Biquads are torchlpc's, level average and compressor gain torchcomp's, the FDN's response is a `torch.linalg.solve` per
bin, convolutions are torch_fftconv's: the structure of the release, without further optimisation, under the published
parameter names. Source: DiffVox, arXiv 2504.14735.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization
from torch_fftconv import fft_conv1d
from torchcomp import avg, compexp_gain, db2amp, ms2coef
from torchlpc import sample_wise_lpc

SR = 44100
FDN_DELAYS = (997, 1153, 1327, 1559, 1801, 2099)


def causal_convolve(x: Tensor, ir: Tensor) -> Tensor:
    """Convolve x (B, I, T) with ir (O, I, N), cut to T samples -> (B, O, T)."""
    return fft_conv1d(F.pad(x, (ir.shape[-1] - 1, 0)), ir.flip(-1))


def biquad(x: Tensor, b: Tensor, a: Tensor) -> Tensor:
    """Filter x (..., T) with coefficients b and a, (3,) each: three taps, then torchlpc's recursion."""
    rows = x.reshape(-1, x.shape[-1])
    b, a = b / a[0], a[1:] / a[0]
    fir = b[0] * rows + b[1] * F.pad(rows, (1, -1)) + b[2] * F.pad(rows, (2, -2))
    return sample_wise_lpc(fir, a.expand(*rows.shape, 2)).reshape(x.shape)


def peak_coefs(freq: Tensor, Q: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    """Peak filter of the RBJ cookbook from Hz, Q and dB: (b, a), (3,) each."""
    w0, amp = 2 * math.pi * freq / SR, 10 ** (gain / 40)
    cos, alpha = w0.cos(), w0.sin() / (2 * Q)
    b = torch.stack([1 + alpha * amp, -2 * cos, 1 - alpha * amp])
    return b, torch.stack([1 + alpha / amp, -2 * cos, 1 - alpha / amp])


def shelf_coefs(freq: Tensor, Q: Tensor, gain: Tensor, high: bool) -> tuple[Tensor, Tensor]:
    """Low or high shelf of the RBJ cookbook from Hz, Q and dB: (b, a), (3,) each."""
    w0, amp = 2 * math.pi * freq / SR, 10 ** (gain / 40)
    cos, root = (-1 if high else 1) * w0.cos(), amp.sqrt() * w0.sin() / Q
    up, down = amp + 1, amp - 1
    sign = torch.tensor([1, -1 if high else 1, 1], dtype=cos.dtype, device=cos.device)
    b = amp * torch.stack([up - down * cos + root, 2 * (down - up * cos), up - down * cos - root])
    return sign * b, sign * torch.stack([up + down * cos + root, -2 * (down + up * cos), up + down * cos - root])


def pass_coefs(freq: Tensor, Q: Tensor, high: bool) -> tuple[Tensor, Tensor]:
    """Low or high pass of the RBJ cookbook from Hz and Q: (b, a), (3,) each."""
    w0 = 2 * math.pi * freq / SR
    cos, alpha = w0.cos(), w0.sin() / (2 * Q)
    b0, b1 = ((1 + cos) / 2, -1 - cos) if high else ((1 - cos) / 2, 1 - cos)
    return torch.stack([b0, b1, b0]), torch.stack([1 + alpha, -2 * cos, 1 - alpha])


def peer_eq(x: Tensor, sections: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Filter x (..., T) with biquad sections (b, a) in series."""
    for b, a in sections:
        x = biquad(x, b, a)
    return x


def pan(x: Tensor, position: Tensor) -> Tensor:
    """Pan x (B, 1 or 2, T) to stereo by a position in 0..1 with constant power, 0 dB at the centre."""
    angle = position * math.pi / 2
    return x * (math.sqrt(2) * torch.stack([angle.cos(), angle.sin()])).unsqueeze(-1)


def peer_compressor(
    x: Tensor,
    *,
    avg_coef: Tensor,
    cmp_th: Tensor,
    cmp_ratio: Tensor,
    exp_th: Tensor,
    exp_ratio: Tensor,
    at: Tensor,
    rt: Tensor,
    make_up: Tensor,
    lookahead: Tensor,
) -> Tensor:
    """Compress and expand x (B, 1, T): thresholds and make-up in dB, look-ahead (1,) in ms, one-pole coefficients."""
    level = avg(x.squeeze(1).square().clamp_min(1e-8), avg_coef).sqrt()
    gain = compexp_gain(level, cmp_th, cmp_ratio, exp_th, exp_ratio, at, rt).unsqueeze(1)
    before, taps = SR // 1000, SR * 16 // 1000 + 1
    index = torch.arange(-before, taps - before, dtype=x.dtype, device=x.device)
    advance = torch.sinc(index - lookahead * SR / 1000)
    gain = F.conv1d(F.pad(gain, (before, taps - before - 1), mode="replicate"), advance[None, None])
    return x * gain * db2amp(make_up)


def echo_sums(H: Tensor, feedback: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Sum the spectra feedback^(k-1) H^k of odd and of even echoes k = 1..count; H (F,), powers in polar form."""
    k = torch.arange(1, count + 1, dtype=feedback.dtype, device=H.device).unsqueeze(1)
    echoes = torch.polar(feedback ** (k - 1) * H.abs() ** k, k * H.angle())
    return echoes[::2].sum(0), echoes[1::2].sum(0)


def delay_tap(n: int, samples: Tensor, log_damp: Tensor | None) -> Tensor:
    """Tap of the delay on n points, a sinc at `samples`; with `log_damp` its gradient is a damped exponential's."""
    exact = torch.sinc(torch.arange(n, dtype=samples.dtype, device=samples.device) - samples)
    if log_damp is None:
        return exact
    bins = torch.arange(n // 2 + 1, dtype=samples.dtype, device=samples.device)
    damped = torch.fft.irfft(torch.polar(torch.exp(log_damp * bins), -2 * math.pi / n * bins * samples), n=n)
    return damped + (exact - damped).detach()


def peer_delay(
    x: Tensor,
    *,
    delay: Tensor,
    feedback: Tensor,
    gain: Tensor,
    low_pass: tuple[Tensor, Tensor],
    odd_pan: Tensor,
    even_pan: Tensor,
    log_damp: Tensor | None = None,
    n: int = 4 * SR,
) -> Tensor:
    """Ping-pong delay of x (B, 1, T), `delay` in ms, by an n-sample response -> (B, 2, T); see `delay_tap`."""
    samples = delay * SR / 1000
    H = torch.fft.rfft(biquad(delay_tap(n, samples, log_damp), *low_pass))
    echoes = torch.fft.irfft(torch.stack(echo_sums(H, feedback, n // int(samples + 1))), n=n)
    ir = gain * (pan(echoes[None, :1], odd_pan) + pan(echoes[None, 1:], even_pan))
    return causal_convolve(x, ir.transpose(0, 1))


def line_gains(gamma: Tensor, delays: Tensor, n: int) -> Tensor:
    """Interpolate the decay (49, 1) to n//2+1 bins and raise it to each line's share of the shortest: (M, F)."""
    curve = F.interpolate(gamma.T.unsqueeze(0), n // 2 + 1, mode="linear", align_corners=True).squeeze(0)
    return curve ** (delays / delays.min()).to(gamma.dtype).unsqueeze(1)


def peer_fdn_response(U: Tensor, line_gain: Tensor, b: Tensor, c: Tensor, delays: Tensor, n: int) -> Tensor:
    """c (diag(e^{iwm}) - U diag(gain))^-1 b per bin: U (M, M), line_gain (M, F), b (M, I), c (O, M) -> (F, O, I)."""
    w = 2 * math.pi / n * torch.arange(n // 2 + 1, dtype=U.dtype, device=U.device)
    phase = w.unsqueeze(1) * delays
    loop = torch.diag_embed(torch.polar(torch.ones_like(phase), phase)) - U * line_gain.T.unsqueeze(1)
    return c.to(loop.dtype) @ torch.linalg.solve(loop, b.to(loop.dtype))


def peer_fdn_eq(ir: Tensor, sections: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Filter the FDN's impulse responses (O, I, N) with its own biquads in series."""
    return peer_eq(ir, sections)


class Range(nn.Module):
    """Parametrisation low + (high - low) sigma(raw)."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, raw: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * raw.sigmoid()

    def right_inverse(self, value: Tensor) -> Tensor:
        return ((value - self.low) / (self.high - self.low)).logit()


class Wrapped(nn.Module):
    """Parametrisation |raw| mod 15 ms of the look-ahead."""

    def forward(self, raw: Tensor) -> Tensor:
        return raw.abs() % 15.0

    def right_inverse(self, value: Tensor) -> Tensor:
        return value


class Negative(nn.Module):
    """Parametrisation -softplus(raw)."""

    def forward(self, raw: Tensor) -> Tensor:
        return -F.softplus(raw)

    def right_inverse(self, value: Tensor) -> Tensor:
        return torch.log(torch.expm1(-value))


class Orthogonal(nn.Module):
    """Parametrisation expm(triu(W, 1) - triu(W, 1)^T)."""

    def forward(self, raw: Tensor) -> Tensor:
        upper = raw.triu(1)
        return torch.matrix_exp(upper - upper.T)


UNIT = (0.0, 1.0)


class Params(nn.Module):
    """The parameters of one effect, declared as (initial value, mapping or range or None) by name."""

    def __init__(self, **declared: tuple[float | Tensor, nn.Module | tuple[float, float] | None]) -> None:
        super().__init__()
        self.names = tuple(declared)
        for name, (value, mapping) in declared.items():
            self.register_parameter(name, nn.Parameter(torch.as_tensor(value, dtype=torch.get_default_dtype())))
            if mapping is not None:
                register_parametrization(self, name, Range(*mapping) if isinstance(mapping, tuple) else mapping)

    def values(self) -> dict[str, Tensor]:
        """Mapped values by name."""
        return {name: getattr(self, name) for name in self.names}


class Peak(nn.Module):
    """Peak filter."""

    def __init__(
        self, freq: float, freq_range: tuple[float, float], Q_range: tuple[float, float] = (0.2, 20.0)
    ) -> None:
        super().__init__()
        self.params = Params(gain=(0.0, None), freq=(freq, freq_range), Q=(0.707, Q_range))

    def coefs(self) -> tuple[Tensor, Tensor]:
        return peak_coefs(**self.params.values())


class Shelf(nn.Module):
    """Low or high shelf with fixed Q."""

    def __init__(self, freq: float, freq_range: tuple[float, float], high: bool) -> None:
        super().__init__()
        self.high = high
        self.params = Params(gain=(0.0, None), freq=(freq, freq_range))
        self.register_buffer("Q", torch.tensor(0.707))

    def coefs(self) -> tuple[Tensor, Tensor]:
        return shelf_coefs(**self.params.values(), Q=self.Q, high=self.high)


class Pass(nn.Module):
    """Low or high pass."""

    def __init__(self, freq: float, freq_range: tuple[float, float], Q_range: tuple[float, float], high: bool) -> None:
        super().__init__()
        self.high = high
        self.params = Params(freq=(freq, freq_range), Q=(0.707, Q_range))

    def coefs(self) -> tuple[Tensor, Tensor]:
        return pass_coefs(**self.params.values(), high=self.high)


class Compressor(nn.Module):
    """Compressor/expander with look-ahead."""

    def __init__(self) -> None:
        super().__init__()
        coef = ms2coef(torch.tensor(50.0), SR)
        self.params = Params(
            cmp_th=(-18.0, None),
            exp_th=(-48.0, None),
            make_up=(0.0, None),
            lookahead=(torch.tensor([1000 / SR]), Wrapped()),
            at=(coef, UNIT),
            rt=(coef, UNIT),
            avg_coef=(0.3, UNIT),
            cmp_ratio=(2.0, (1.0, 20.0)),
            exp_ratio=(0.5, UNIT),
        )

    def forward(self, x: Tensor) -> Tensor:
        return peer_compressor(x, **self.params.values())


class Pan(nn.Module):
    """Position between left and right, from the centre."""

    def __init__(self) -> None:
        super().__init__()
        self.params = Params(pan=(0.5, UNIT))

    def forward(self, x: Tensor) -> Tensor:
        return pan(x, self.params.pan)


class Delay(nn.Module):
    """Ping-pong delay; in training its tap has the surrogate's gradient, straight through."""

    def __init__(self, duration: float = 4.0) -> None:
        super().__init__()
        self.n = int(duration * SR)
        self.params = Params(delay=(400.0, (100.0, 1000.0)), feedback=(0.1, UNIT), gain=(0.1, UNIT))
        self.eq = Pass(8000.0, (200.0, 16000.0), (0.5, 2.0), high=False)
        self.odd_pan, self.even_pan = Pan(), Pan()
        self.log_damp = nn.Parameter(torch.tensor([-0.01]))
        register_parametrization(self, "log_damp", Negative())

    def forward(self, x: Tensor) -> Tensor:
        return peer_delay(
            x,
            **self.params.values(),
            low_pass=self.eq.coefs(),
            odd_pan=self.odd_pan.params.pan,
            even_pan=self.even_pan.params.pan,
            log_damp=self.log_damp if self.training else None,
            n=self.n,
        )

    def penalty(self) -> Tensor:
        """(1 - e^d)^2, whose minimum is a surrogate without damping."""
        return (1 - self.log_damp.exp()).square().sum()


class FDN(nn.Module):
    """Feedback delay network with one decay curve for all lines and its own EQ."""

    def __init__(self, duration: float = 12.0) -> None:
        super().__init__()
        self.n = int(duration * SR)
        self.register_buffer("delays", torch.tensor(FDN_DELAYS))
        # The release stores this bound in a float32 buffer, whose rounding changes the response's tail.
        highest = torch.tensor(10 ** (-3 * min(FDN_DELAYS) / (SR * 0.75 * duration))).item()
        lines = len(FDN_DELAYS)
        self.params = Params(
            b=(torch.full((lines, 2), 1 / lines), None),
            c=(torch.zeros(2, lines), None),
            gamma=(torch.empty(49, 1).uniform_(0.4, 0.6), (0.0, highest)),
            U=(torch.randn(lines, lines) / math.sqrt(lines), Orthogonal()),
        )
        self.eq = nn.Sequential(
            Peak(800.0, (200.0, 2500.0), (0.1, 3.0)),
            Peak(4000.0, (600.0, 7000.0), (0.1, 3.0)),
            Shelf(115.0, (30.0, 450.0), high=False),
            Shelf(8000.0, (1500.0, 16000.0), high=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        p = self.params
        H = peer_fdn_response(p.U, line_gains(p.gamma, self.delays, self.n), p.b, p.c, self.delays, self.n)
        ir = torch.fft.irfft(H.permute(1, 2, 0), n=self.n)
        return causal_convolve(x, peer_fdn_eq(ir, [band.coefs() for band in self.eq]))


class Sends(nn.Module):
    """Panned direct path, delay and FDN in parallel, with a send from the delay into the FDN."""

    def __init__(self) -> None:
        super().__init__()
        self.params = Params(sends_0=(torch.tensor([0.01]), UNIT))
        self.effects = nn.ModuleList([Delay(), FDN()])
        self.pan = Pan()

    def forward(self, x: Tensor) -> Tensor:
        delay, fdn = self.effects
        echoes = delay(x)
        return self.pan(x) + echoes + fdn(x + self.params.sends_0 * echoes)


class PeerChain(nn.Sequential):
    """The published chain of six biquads, compressor/expander and sends: x (B, 1, T) -> (B, 2, T)."""

    def __init__(self) -> None:
        super().__init__(
            Peak(800.0, (33.0, 5400.0)),
            Peak(4000.0, (200.0, 17500.0)),
            Shelf(115.0, (30.0, 200.0), high=False),
            Shelf(6000.0, (750.0, 8300.0), high=True),
            Pass(17500.0, (200.0, 18000.0), (0.5, 10.0), high=False),
            Pass(200.0, (16.0, 5300.0), (0.5, 10.0), high=True),
            Compressor(),
            Sends(),
        )

    def forward(self, x: Tensor) -> Tensor:
        *filters, compressor, sends = self
        return sends(compressor(peer_eq(x, [band.coefs() for band in filters])))

    def load(self, raw: dict[str, Tensor]) -> None:
        """Load raw parameters by their published names; ValueError unless exactly these are given."""
        own = dict(self.named_parameters())
        if own.keys() != raw.keys():
            raise ValueError(f"{sorted(own.keys() ^ raw.keys())} missing or unknown; give all published names, no more")
        with torch.no_grad():
            for name, value in raw.items():
                own[name].copy_(torch.as_tensor(value))

    def penalty(self) -> Tensor:
        """The term of the loss for the delay's surrogate, in training."""
        return self[-1].effects[0].penalty()
