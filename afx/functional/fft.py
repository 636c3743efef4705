"""Real Fourier transforms, long and short, whose gradients cost one real transform too."""

import scipy.fft
import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

VECTOR = 128


def fast_length(n: int) -> int:
    """A length >= n whose real FFT is fast: a power of 2 nearby, else small factors with enough of 2 among them."""
    power = 1 << (n - 1).bit_length()
    if power <= 1.25 * n:
        return power
    return VECTOR * scipy.fft.next_fast_len(-(-n // VECTOR), real=True)


def forward(x: Tensor, n: int, norm: str = "backward") -> Tensor:
    """torch.fft.rfft without a gradient. MKL plans anew at every call, which takes longer than to transform one row."""
    if x.device.type == "cpu" and x.shape[:-1].numel() == 1:
        return torch.from_numpy(scipy.fft.rfft(x.detach().numpy(), n, norm=norm))
    return torch.fft.rfft(x, n=n, norm=norm)


def inverse(X: Tensor, n: int, norm: str = "backward") -> Tensor:
    """torch.fft.irfft without a gradient, likewise."""
    if X.device.type == "cpu" and X.shape[:-1].numel() == 1:
        return torch.from_numpy(scipy.fft.irfft(X.detach().resolve_conj().numpy(), n, norm=norm))
    return torch.fft.irfft(X, n=n, norm=norm)


class _Rfft(torch.autograd.Function):
    """torch's own gradient of rfft is a full complex transform of a padded copy: four times the work and memory."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, n: int) -> Tensor:
        ctx.length, ctx.n = x.shape[-1], n
        return forward(x, n)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        # Σ_k Re(g_k e^{iωk}) over the one-sided bins: irfft counts those between the ends twice.
        half = grad * 0.5
        half[..., 0] = grad[..., 0]
        if ctx.n % 2 == 0:
            half[..., -1] = grad[..., -1]
        x = inverse(half, ctx.n, norm="forward")[..., : ctx.length]
        return torch.nn.functional.pad(x, (0, max(ctx.length - x.shape[-1], 0))), None


class _Irfft(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, X: Tensor, n: int) -> Tensor:
        ctx.n = n
        return inverse(X, n)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        X = forward(grad, ctx.n, norm="forward")
        X[..., 1 : (ctx.n + 1) // 2] *= 2
        return X, None


def rfft(x: Tensor, n: int | None = None) -> Tensor:
    """torch.fft.rfft along the last axis: cut or zero-padded to n points, (…, T) to (…, n // 2 + 1)."""
    return _Rfft.apply(x, n or x.shape[-1])


def irfft(X: Tensor, n: int) -> Tensor:
    """torch.fft.irfft along the last axis, (…, n // 2 + 1) to (…, n)."""
    return _Irfft.apply(X, n)


def stft(x: Tensor, window: Tensor, hop: int) -> Tensor:
    """Short-time spectra of x (B, T): (B, T // hop + 1, N // 2 + 1).

    Frames are centred, `hop` samples apart, on x extended by reflection; window (N,), N a multiple of 2·hop.
    Equals torch.stft, transposed; frames are put together from blocks of `hop` samples, as the gradient of
    overlapping views is slow.
    """
    size, frames = window.shape[0], x.shape[-1] // hop + 1
    x = torch.nn.functional.pad(x.unsqueeze(1), (size // 2, size // 2), mode="reflect").squeeze(1)
    blocks = x[:, : (frames - 1) * hop + size].unflatten(-1, (-1, hop))
    overlapping = [blocks[:, k : k + frames] * part for k, part in enumerate(window.unflatten(0, (-1, hop)))]
    return rfft(torch.cat(overlapping, -1))
