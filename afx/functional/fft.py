"""Real Fourier transforms whose gradients cost one real transform, and short-time spectra."""

import scipy.fft
import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

#: Lengths that are no power of 2 are multiples of this: enough factors of 2 for vectorised FFT code.
VECTOR = 128


def fast_length(n: int) -> int:
    """A length >= n whose real FFT is fast: a power of 2 up to 1.25·n, else VECTOR times a product of small primes."""
    power = 1 << (n - 1).bit_length()
    if power <= 1.25 * n:
        return power
    blocks = scipy.fft.next_fast_len(-(-n // VECTOR), real=True)
    return VECTOR * blocks  # pyright: ignore[reportOperatorIssue]  # scipy's stub lacks the return type


def forward(x: Tensor, n: int, norm: str = "backward") -> Tensor:
    """torch.fft.rfft without a gradient, and faster for a single row on a CPU.

    MKL makes a new plan at every call, which takes longer than the transform of one row; scipy caches its plans.
    """
    if x.device.type == "cpu" and x.shape[:-1].numel() == 1:
        return torch.from_numpy(scipy.fft.rfft(x.detach().numpy(), n, norm=norm))
    return torch.fft.rfft(x, n=n, norm=norm)


def inverse(X: Tensor, n: int, norm: str = "backward") -> Tensor:
    """torch.fft.irfft without a gradient; see `forward`."""
    if X.device.type == "cpu" and X.shape[:-1].numel() == 1:
        return torch.from_numpy(scipy.fft.irfft(X.detach().resolve_conj().numpy(), n, norm=norm))
    return torch.fft.irfft(X, n=n, norm=norm)


class _Context(FunctionCtx):
    n: int
    length: int


class _Rfft(torch.autograd.Function):
    """rfft with a cheap gradient: torch's is a complex transform of a padded copy, four times the work and memory."""

    @staticmethod
    def forward(ctx: _Context, x: Tensor, n: int) -> Tensor:
        ctx.length, ctx.n = x.shape[-1], n
        return forward(x, n)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor, None]:
        # The gradient Σ_k Re(g_k e^{iωk}) counts every one-sided bin once; irfft counts those between the ends twice.
        half = grad * 0.5
        half[..., 0] = grad[..., 0]
        if ctx.n % 2 == 0:
            half[..., -1] = grad[..., -1]
        x = inverse(half, ctx.n, norm="forward")[..., : ctx.length]
        return torch.nn.functional.pad(x, (0, max(ctx.length - x.shape[-1], 0))), None


class _Irfft(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, X: Tensor, n: int) -> Tensor:
        ctx.n = n
        return inverse(X, n)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor, None]:
        # The adjoint of irfft: 1/n, and twice for the bins between the ends, each of which stands for a conjugate pair.
        X = forward(grad, ctx.n, norm="forward")
        X[..., 1 : (ctx.n + 1) // 2] *= 2
        return X, None


def rfft(x: Tensor, n: int | None = None) -> Tensor:
    """torch.fft.rfft along the last axis, truncated or zero-padded to n points: (…, T) to (…, n // 2 + 1)."""
    return _Rfft.apply(x, n or x.shape[-1])


def irfft(X: Tensor, n: int) -> Tensor:
    """torch.fft.irfft along the last axis, (…, n // 2 + 1) to (…, n)."""
    return _Irfft.apply(X, n)


def stft(x: Tensor, window: Tensor, hop: int) -> Tensor:
    """Short-time spectra of x (B, T): (B, T // hop + 1, N // 2 + 1).

    Frames of N samples are `hop` samples apart and centred; x is extended by reflection; window (N,), N a multiple of
    2·hop. Equals torch.stft, transposed. Frames are concatenated from blocks of `hop` samples, because the gradient of
    overlapping views is slow.
    """
    size, frames = window.shape[0], x.shape[-1] // hop + 1
    x = torch.nn.functional.pad(x.unsqueeze(1), (size // 2, size // 2), mode="reflect").squeeze(1)
    blocks = x[:, : (frames - 1) * hop + size].unflatten(-1, (-1, hop))
    overlapping = [blocks[:, k : k + frames] * part for k, part in enumerate(window.unflatten(0, (-1, hop)))]
    return rfft(torch.cat(overlapping, -1))
