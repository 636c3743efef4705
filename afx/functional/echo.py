"""Ping-pong echoes: fractional delays and the finite geometric series of a feedback loop.

Source: DiffVox, arXiv 2504.14735, the ping-pong delay and its surrogate.
"""

import math

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from .fft import forward


def sinc_delay(samples: Tensor, length: int) -> Tensor:
    """Impulse response of an ideal delay, h[n] = sinc(n - samples), (…) to (…, length) in float64."""
    n = torch.arange(length, dtype=torch.float64, device=samples.device)
    return torch.sinc(n - samples.double().unsqueeze(-1))


def damped_spectrum(samples: Tensor, damping: Tensor | float, length: int) -> Tensor:
    """Spectrum of a damped delay, (…) to (…, length // 2 + 1) complex128.

    At bin m it is exp(damping·m - 2πi·m·samples / length). A lower `damping` (< 0) widens the peak of the impulse
    response, so that the gradient of a loss with respect to `samples` is useful further away from the optimum. A
    damping of 0 gives an ideal circular delay.
    """
    m = torch.arange(length // 2 + 1, dtype=torch.float64, device=samples.device)
    # The phase is reduced to one turn explicitly, for precision: m·samples reaches 10⁹.
    turns = torch.remainder(m * samples.double().unsqueeze(-1) / length, 1)
    magnitude = torch.exp(torch.as_tensor(damping, dtype=torch.float64, device=samples.device).unsqueeze(-1) * m)
    # Magnitude times unit phasor: the gradient of polar(magnitude, …) divides by the magnitude, which underflows.
    return magnitude * torch.polar(torch.ones_like(turns), -2 * math.pi * turns)


class _Context(FunctionCtx):
    saved_tensors: tuple[Tensor, Tensor]


class _StraightThroughDelay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, samples: Tensor, damping: Tensor, length: int) -> Tensor:
        ctx.save_for_backward(samples, damping)
        return sinc_delay(samples, length)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        # h = irfft(S), so dh/dθ · g = 1/N Σ_k w_k Re(dS_k/dθ conj(G_k)) over the one-sided bins, G = rfft(g); w is 2
        # between the ends. dS/d samples = -2πi k/N S and dS/d damping = k S.
        samples, damping = ctx.saved_tensors
        n = grad.shape[-1]
        G = forward(grad.double(), n)
        G[..., 1 : (n + 1) // 2] *= 2
        moment = torch.arange(n // 2 + 1, device=G.device) * damped_spectrum(samples, damping, n) * G.conj() / n
        grad_samples, grad_damping = 2 * math.pi / n * moment.imag.sum(-1), moment.real.sum(-1)
        return grad_samples.to(samples.dtype), grad_damping.to(damping.dtype), None


def straight_through_delay(samples: Tensor, damping: Tensor, length: int) -> Tensor:
    """The value of `sinc_delay` with the gradient of the inverse transform of `damped_spectrum`, (…) to (…, length)."""
    # Broadcast out here, so that torch sums the gradients over the repeated dimensions.
    return _StraightThroughDelay.apply(*torch.broadcast_tensors(samples.double(), damping), length)


def geometric_sum(z: Tensor, count: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """1 + z + … + z^(count-1), and z^count, by doubling: unlike (1 - z^count) / (1 - z), accurate near z = 1 too.

    Args:
        z: complex (…, F).
        count: number of terms, integer (…), at most `most`.

    Uses S_2m = S_m·(1 + z^m) and S_(m+1) = S_m + z^m over the binary digits of `count`.
    """
    total, power = torch.zeros_like(z), torch.ones_like(z)
    for digit in reversed(range(most.bit_length())):
        # By arithmetic, not a branch: counts differ between items, and reading one would synchronise with the device.
        odd = ((count >> digit) & 1).to(z.dtype).unsqueeze(-1)
        total, power = total + total * power, power * power
        total, power = total + odd * power, power + odd * (power * z - power)
    return total, power


def finite_echoes(tap: Tensor, feedback: Tensor, count: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Spectra of the odd and of the even echoes, feedback^(k-1)·tap^k for k = 1 … count.

    Args:
        tap: spectrum of one pass through the loop, complex (…, F).
        feedback, count: (…); `most` bounds the count.
    """
    # Every second echo: odd and even ones are both series in looped², and an odd count has one odd echo more.
    looped = feedback.unsqueeze(-1) * tap
    pairs, next_pair = geometric_sum(looped * looped, count // 2, most // 2)
    unpaired = (count % 2).to(tap.dtype).unsqueeze(-1)
    return tap * (pairs + unpaired * next_pair), tap * looped * pairs


def sinc_echoes(samples: Tensor, feedback: Tensor, count: Tensor, most: int, length: int) -> tuple[Tensor, Tensor]:
    """Impulse responses of the odd and of the even echoes, feedback^(k-1)·sinc(n - k·samples) for k = 1 … count.

    Args:
        samples, feedback, count: (…); `most` bounds the count.

    Returns:
        (…, length) each, in float64.
    """
    sums = [torch.zeros(*samples.shape, length, dtype=torch.float64, device=samples.device) for _ in range(2)]
    for k in range(1, most + 1):
        # Masked, because counts differ between items.
        level = feedback.double() ** (k - 1) * (k <= count)
        sums[(k - 1) % 2] = sums[(k - 1) % 2] + level.unsqueeze(-1) * sinc_delay(k * samples, length)
    return sums[0], sums[1]


def endless_echoes(delay: Tensor, loop: Tensor) -> tuple[Tensor, Tensor]:
    """Spectra of the odd and of the even echoes of an infinite feedback loop, |loop| < 1.

    Echo k has the spectrum delay·loop^(k-1); the odd ones sum to delay / (1 - loop²), the even ones to loop times that.
    Both arguments are complex (…, F).
    """
    odd = delay / (1 - loop * loop)
    return odd, odd * loop
