"""Feedback delay networks: decay per line and frequency, impulse responses.

Source: DiffVox, arXiv 2504.14735, the FDN reverb.
"""

import torch
from torch import Tensor

from reknob.afx import kernels

from .fft import irfft


def line_gains(gamma: Tensor, delays: Tensor, bins: int, shared: bool) -> Tensor:
    """Gain of every delay line at every bin, from decay factors at a few equally spaced frequencies.

    γ is interpolated linearly over 0 … Nyquist. When `shared`, it is the decay of the shortest line m_0 and line i
    gets γ^(m_i / m_0), so that all decay at the same rate.

    Args:
        gamma: (…, K, 1), or (…, K, M) with a curve for each line.
        delays: (M,) or (…, M) samples.

    Returns:
        (…, M, bins).
    """
    curves = gamma.mT.reshape(-1, gamma.shape[-1], gamma.shape[-2])
    curves = torch.nn.functional.interpolate(curves, size=bins, mode="linear", align_corners=True)
    curves = curves.reshape(*gamma.shape[:-2], gamma.shape[-1], bins)
    if not shared:
        return curves
    ratio = (delays.double() / delays.amin(-1, keepdim=True)).to(gamma.dtype).unsqueeze(-1)
    return (ratio @ curves.clamp_min(torch.finfo(curves.dtype).tiny).log()).exp_()


def impulse_response(gains: Tensor, U: Tensor, b: Tensor, c: Tensor, delays: Tensor, n: int) -> Tensor:
    """Responses of the network sampled on n points: irfft of c·(diag(e^{iωm}) - U·diag(γ(ω)))⁻¹·b.

    Args:
        gains: (…, M, n // 2 + 1). U: feedback (…, M, M). b: (…, M, I). c: (…, O, M). delays: (M,) or (…, M) samples.

    Returns:
        (…, O, I, n).
    """
    batch = torch.broadcast_shapes(gains.shape[:-2], U.shape[:-2], b.shape[:-2], c.shape[:-2], delays.shape[:-1])
    rows = [t.expand(*batch, *t.shape[-2:]).reshape(-1, *t.shape[-2:]) for t in (U, gains, b, c)]
    H = kernels.fdn_response(*rows, delays.reshape(-1, delays.shape[-1]), n)
    return irfft(H.reshape(*batch, *H.shape[1:]), n)


def decay_fir(gamma: Tensor, delays: Tensor, shared: bool) -> Tensor:
    """Linear-phase filters with the gain of every delay line, for the real-time form: 2 K - 1 taps for K frequencies.

    The gains at the K frequencies are interpolated linearly over a finer grid, transformed to time, centred, cut to
    the number of taps and multiplied by a Hamming window (frequency sampling design, as scipy.signal.firwin2 does it).

    Args:
        gamma: (…, K, 1), or (…, K, M) with a curve for each line; see `line_gains` for `shared`.
        delays: (M,) or (…, M) samples.

    Returns:
        (…, M, 2 K - 1); the filters delay by K - 1 samples.
    """
    bands = gamma.shape[-2]
    taps = 2 * bands - 1
    points = 2 ** (taps - 1).bit_length() + 1
    gains = line_gains(gamma, delays, bands, shared)
    grid = torch.nn.functional.interpolate(
        gains.reshape(1, -1, bands), size=points, mode="linear", align_corners=True
    ).reshape(*gains.shape[:-1], points)
    h = torch.fft.irfft(grid, n=2 * (points - 1)).roll(bands - 1, -1)[..., :taps]
    return h * torch.hamming_window(taps, periodic=False, dtype=h.dtype, device=h.device)
