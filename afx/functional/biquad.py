"""Second-order filters: coefficients of the RBJ cookbook, cascades, impulse responses.

Source of every formula: R. Bristow-Johnson, "Cookbook formulae for audio equalizer biquad filter coefficients".
Arguments are tensors that broadcast to (…): frequencies in Hz, gains in dB. Coefficients are (…, 5) in float64: b0, b1,
b2, a1, a2, divided by a0. Rounding them to float32 would cost three digits of the output at frequencies near DC.
"""

import math

import torch
from torch import Tensor

from reknob.afx import kernels


def _angle(freq_hz: Tensor, Q: Tensor, sr: int) -> tuple[Tensor, Tensor]:
    """cos ω0 and α = sin ω0 / 2Q in float64."""
    omega = freq_hz.double() * (2 * math.pi / sr)
    return torch.cos(omega), torch.sin(omega) / (2 * Q.double())


def _normalised(b0: Tensor, b1: Tensor, b2: Tensor, a0: Tensor, a1: Tensor, a2: Tensor) -> Tensor:
    """The coefficients (…, 5), divided by a0."""
    return torch.stack(torch.broadcast_tensors(b0, b1, b2, a1, a2), -1) / a0.unsqueeze(-1)


def low_pass(freq_hz: Tensor, Q: Tensor, sr: int) -> Tensor:
    """H(s) = 1 / (s² + s/Q + 1)."""
    cos, alpha = _angle(freq_hz, Q, sr)
    b = (1 - cos) / 2
    return _normalised(b, 2 * b, b, 1 + alpha, -2 * cos, 1 - alpha)


def high_pass(freq_hz: Tensor, Q: Tensor, sr: int) -> Tensor:
    """H(s) = s² / (s² + s/Q + 1)."""
    cos, alpha = _angle(freq_hz, Q, sr)
    b = (1 + cos) / 2
    return _normalised(b, -2 * b, b, 1 + alpha, -2 * cos, 1 - alpha)


def band_pass(freq_hz: Tensor, Q: Tensor, sr: int) -> Tensor:
    """H(s) = (s/Q) / (s² + s/Q + 1), 0 dB at the centre frequency."""
    cos, alpha = _angle(freq_hz, Q, sr)
    return _normalised(alpha, torch.zeros_like(alpha), -alpha, 1 + alpha, -2 * cos, 1 - alpha)


def peak(freq_hz: Tensor, Q: Tensor, gain_db: Tensor, sr: int) -> Tensor:
    """H(s) = (s² + s·A/Q + 1) / (s² + s/(A·Q) + 1), A = 10^(gain_db / 40)."""
    cos, alpha = _angle(freq_hz, Q, sr)
    # 40, not 20: the gain at the centre is A², A from the numerator and A from the denominator.
    A = 10 ** (gain_db.double() / 40)
    return _normalised(1 + alpha * A, -2 * cos, 1 - alpha * A, 1 + alpha / A, -2 * cos, 1 - alpha / A)


def low_shelf(freq_hz: Tensor, Q: Tensor, gain_db: Tensor, sr: int) -> Tensor:
    """H(s) = A (s² + s·√A/Q + A) / (A·s² + s·√A/Q + 1), A = 10^(gain_db / 40)."""
    return _shelf(freq_hz, Q, gain_db, sr, side=1)


def high_shelf(freq_hz: Tensor, Q: Tensor, gain_db: Tensor, sr: int) -> Tensor:
    """H(s) = A (A·s² + s·√A/Q + 1) / (s² + s·√A/Q + A), A = 10^(gain_db / 40)."""
    return _shelf(freq_hz, Q, gain_db, sr, side=-1)


def _shelf(freq_hz: Tensor, Q: Tensor, gain_db: Tensor, sr: int, side: int) -> Tensor:
    """The low shelf (side 1), or the high shelf (side -1), which is the low shelf with -z for z, -cos ω0 for cos ω0."""
    cos, alpha = _angle(freq_hz, Q, sr)
    cos = side * cos
    A = 10 ** (gain_db.double() / 40)
    slope = 2 * A.sqrt() * alpha
    up, down = (A + 1) + (A - 1) * cos, (A + 1) - (A - 1) * cos
    b1 = 2 * side * A * ((A - 1) - (A + 1) * cos)
    a1 = -2 * side * ((A - 1) + (A + 1) * cos)
    return _normalised(A * (down + slope), b1, A * (down - slope), up + slope, a1, up - slope)


def cascade(x: Tensor, coefs: Tensor) -> Tensor:
    """Audio through filters in series, by the recursion itself with zero initial state.

    Args:
        x: audio (B, C, T).
        coefs: K filters (K, 5), or (G, K, 5) with one set per group of B / G consecutive items.
    """
    # The kernel runs one row per channel; a single set (1, K, 5) is broadcast there.
    rows = coefs.unsqueeze(0) if coefs.dim() == 2 else coefs.repeat_interleave(len(x) * x.shape[1] // len(coefs), 0)
    return kernels.biquad_cascade(x.reshape(-1, x.shape[-1]), rows).reshape(x.shape)


def impulse_response(coefs: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """First `length` samples of the response of K filters in series, (…, K, 5) to (…, length)."""
    rows = coefs.reshape(-1, *coefs.shape[-2:])
    # By the recursion: the inverse transform of a sampled response would alias what rings longer than `length`.
    impulse = torch.zeros(len(rows), length, dtype=dtype, device=coefs.device)
    impulse[:, 0] = 1
    return kernels.biquad_cascade(impulse, rows).reshape(*coefs.shape[:-2], length)


def response(coefs: Tensor, freq_hz: Tensor, sr: int) -> Tensor:
    """Complex response of K filters in series, (…, K, 5), at frequencies (F,): (…, F)."""
    z = torch.exp(torch.outer(-2j * math.pi / sr * freq_hz, torch.arange(3).to(freq_hz)))
    # The coefficients are divided by a0, so the denominator begins with 1.
    denominator = torch.cat([torch.ones_like(coefs[..., :1]), coefs[..., 3:]], -1)
    return (coefs[..., :3].to(z) @ z.T / (denominator.to(z) @ z.T)).prod(-2)
