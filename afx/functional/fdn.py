"""Feedback delay networks: decay per line and frequency, impulse responses.

Source: DiffVox, arXiv 2504.14735, the FDN reverb.
"""

import numpy as np
import torch
from torch import Tensor

from reknob.afx import kernels

from .fft import irfft

#: What wraps around in a truncated response, relative to what it is without the truncation; rounding errors at its end
#: grow by the inverse.
WRAPPED = 1e-3


def line_gains(gamma: Tensor, delays: Tensor, bins: int, shared: bool) -> Tensor:
    """Gain of every delay line at every bin, from gains γ at K equally spaced frequencies.

    γ is interpolated linearly over 0 … Nyquist. When `shared`, γ is the gain of the shortest line, of m_0 samples, and
    line i has γ^(m_i / m_0), so that all lines decay at the same rate in dB per second.

    Args:
        gamma: (…, K, 1), or (…, K, M) with a curve per line.
        delays: lengths of the lines, (M,) or (…, M) samples.

    Returns:
        (…, M, bins).
    """
    curves = gamma.mT.reshape(-1, gamma.shape[-1], gamma.shape[-2])
    # Corners aligned: the first and the last γ are at 0 Hz and at Nyquist exactly.
    curves = torch.nn.functional.interpolate(curves, size=bins, mode="linear", align_corners=True)
    curves = curves.reshape(*gamma.shape[:-2], gamma.shape[-1], bins)
    if not shared:
        return curves
    ratio = (delays.double() / delays.amin(-1, keepdim=True)).to(gamma.dtype).unsqueeze(-1)
    # exp(ratio·log γ) as a product of matrices (M, 1) and (1, bins); a γ of 0 would have no logarithm.
    return (ratio @ curves.clamp_min(torch.finfo(curves.dtype).tiny).log()).exp_()


def impulse_response(
    gains: Tensor, U: Tensor, b: Tensor, c: Tensor, delays: Tensor, n: int, *, truncated: bool = False
) -> Tensor:
    """Impulse responses of the network by sampling its transfer function at the bins of an FFT of n points.

    h = irfft(c·(diag(e^{iωm}) - U·diag(γ(ω)))⁻¹·b): what rings longer than n samples wraps around to the beginning.

    Args:
        gains: (…, M, n // 2 + 1). U: feedback (…, M, M). b: (…, M, I). c: (…, O, M). delays: (M,) or (…, M) samples.
        truncated: the response is that of the endless network, cut after n samples: h[t]·ρ^t, ρ^n = `WRAPPED`, is the
            response of a network with γ·ρ^m for γ and c·ρ^m for c, and what wraps around is smaller by this factor.

    Returns:
        (…, O, I, n).
    """
    if truncated:
        rho = WRAPPED ** (1 / n)
        once = rho ** delays.to(gains)
        short = impulse_response(gains * once.unsqueeze(-1), U, b, c * once.unsqueeze(-2), delays, n)
        return short * rho ** -torch.arange(n, dtype=gains.dtype, device=gains.device)
    # numpy's function, as the first call of torch's takes a second to import sympy.
    batch = np.broadcast_shapes(gains.shape[:-2], U.shape[:-2], b.shape[:-2], c.shape[:-2], delays.shape[:-1])
    U, gains, b, c = (t.expand(*batch, *t.shape[-2:]).reshape(-1, *t.shape[-2:]) for t in (U, gains, b, c))
    # The limit of γ in reverb.FDN, 60 dB in 3/4 of n samples, puts what wraps around 80 dB below the start.
    H = kernels.fdn_response(U, gains, b, c, delays.reshape(-1, delays.shape[-1]), n)
    return irfft(H.reshape(*batch, *H.shape[1:]), n)


def decay_fir(gamma: Tensor, delays: Tensor, shared: bool) -> Tensor:
    """Linear-phase FIR filters with the gains of the delay lines, for the real-time form; 2 K - 1 taps for K gains.

    Frequency sampling design, as in scipy.signal.firwin2: the gains are interpolated linearly to a finer grid and
    transformed to time; the result is centred, truncated and multiplied by a Hamming window.

    Args:
        gamma: (…, K, 1), or (…, K, M) with a curve per line; see `line_gains` for `shared`.
        delays: (M,) or (…, M) samples.

    Returns:
        (…, M, 2 K - 1); their group delay is K - 1 samples.
    """
    bands = gamma.shape[-2]
    taps = 2 * bands - 1
    points = 2 ** (taps - 1).bit_length() + 1
    gains = line_gains(gamma, delays, bands, shared)
    grid = torch.nn.functional.interpolate(
        gains.reshape(1, -1, bands), size=points, mode="linear", align_corners=True
    ).reshape(*gains.shape[:-1], points)
    # Zero phase is symmetric about sample 0; rolled by half the length it is causal. The window is symmetric too,
    # not periodic, or the phase would not be linear.
    h = torch.fft.irfft(grid, n=2 * (points - 1)).roll(bands - 1, -1)[..., :taps]
    return h * torch.hamming_window(taps, periodic=False, dtype=h.dtype, device=h.device)
