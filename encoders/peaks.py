"""Convolution of one input channel followed by max pooling; only the argmax is stored for the backward pass.

A maximum passes its gradient to one position. So the map of all positions, hundreds of times larger than the input, is
computed item by item without a graph and dropped once the maxima are known; the backward pass reads the windows of the
input at these positions again.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction, FunctionCtx
from torch.nn import functional as F

from reknob.runtime.processes import connected, mean_over_processes


class _ConvAt(torch.autograd.Function):
    """conv2d(x, weight) at given positions, where its values (B, C, P) are already computed."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, values: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
        """Return the values (B, C, P) of x (B, H, W) and weight (C, h, w).

        The first corner of each one's window in x is in rows and cols (B, C, P).
        """
        ctx.save_for_backward(x, weight, rows, cols)
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: BackwardCFunction, grad: Tensor) -> tuple[Tensor | None, Tensor, None, None, None]:
        x, weight, rows, cols = ctx.saved_tensors  # pyright: ignore[reportAssignmentType]  # declared as one tensor
        h, w = weight.shape[1:]
        grad_weight = torch.zeros_like(weight)
        for x_item, g, r, c in zip(x, grad, rows, cols, strict=True):
            windows = x_item.unfold(0, h, 1).unfold(1, w, 1)[r, c]
            grad_weight += (g[:, None] @ windows.flatten(2)).view_as(weight)
        grad_x = _ConvAt.grad_x(x, weight, grad, rows, cols) if ctx.needs_input_grad[0] else None
        return grad_x, grad_weight, None, None, None

    @staticmethod
    def grad_x(x: Tensor, weight: Tensor, grad: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
        """Add the kernel of each position, weighted by its gradient, to its window of the input."""
        width = x.shape[2]
        offsets = torch.arange(x.shape[1] * width, device=x.device).view(-1, width)[:weight.shape[1], :weight.shape[2]]
        out = torch.zeros(x.shape, dtype=x.dtype, device=x.device)
        for item, g, corner in zip(out, grad, rows * width + cols, strict=True):
            index = corner[..., None, None] + offsets
            item.view(-1).index_add_(0, index.flatten(), (g[..., None, None] * weight[:, None]).flatten())
        return out


def conv_max(x: Tensor, weight: Tensor, frames: int) -> Tensor:
    """Return the maximum of conv2d(x, weight) over all rows and `frames` columns at a time.

    x (B, H, W), weight (C, 1, h, w) -> (B, C, (W - w + 1) // frames).
    """
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        maxima = []
        for item in x:
            y = F.conv2d(item[None, None], weight)
            maxima.append(F.max_pool2d(y, (y.shape[2], frames), return_indices=True))
        values, corner = (torch.cat(part).squeeze(2) for part in zip(*maxima, strict=True))
        width = x.shape[2] - weight.shape[3] + 1
    return _ConvAt.apply(x, weight.squeeze(1), values, corner // width, corner % width)


def window_moments(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return mean (k,) and covariance (k, k) of all windows of k neighbours in the rows of x (B, R, L).

    With P = L - k + 1 windows per row, S[i, j] = sum_t x[t + i] x[t + j], t < P, follows its diagonals by
    S[i + 1, j + 1] = S[i, j] - x[i] x[j] + x[P + i] x[P + j]; its first row is a correlation, taken by FFT.
    """
    x = x.flatten(0, 1).double()
    level = x.mean()
    x = x - level  # moments about the mean level: no cancellation of large numbers
    p = x.shape[1] - k + 1
    n = p * len(x)
    mean = x.sum(0).unfold(0, p, 1).sum(1) / n
    n_fft = 2 ** (x.shape[1] - 1).bit_length()
    spectrum = torch.fft.rfft(x[:, :p], n_fft).conj() * torch.fft.rfft(x, n_fft)
    first = torch.fft.irfft(spectrum.sum(0), n_fft)[:k]
    head, tail = x[:, :k - 1], x[:, p:]
    change = F.pad(tail.T @ tail - head.T @ head, (0, k, 1, 0))  # row i: what S[i, :] adds to S[i - 1, :], shifted
    i, lag = torch.arange(k, device=x.device)[:, None], torch.arange(k, device=x.device)
    by_lag = first + change[i, (i - 1).clamp_min(0) + lag].cumsum(0)  # S[i, i + lag] where i + lag < k
    moments = by_lag[torch.minimum(i, lag), (i - lag).abs()] / n
    return mean + level, moments - mean[:, None] * mean


class ConvNormMax(nn.Module):
    """max over the rows of PReLU(BatchNorm(convolution along the columns)): (B, R, L) -> (B, C, L - k + 1).

    Outputs, running statistics and gradients equal those of Conv2d, BatchNorm2d, PReLU and amax. The statistics of the
    batch are computed from mean (k,) and covariance (k, k) of the input windows, as w . mean and w covariance w^T, so
    that the map (B, C, R, L - k + 1) is never stored as a whole.
    """

    def __init__(self, channels: int, kernel_size: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, channels, kernel_size)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            weight, bias = self._folded(x)
            values, rows = _search(x, weight.detach(), bias.detach(), self.act.weight.detach())
            cols = torch.arange(values.shape[2], device=x.device).expand_as(rows)
            return self.act(_ConvAt.apply(x, weight[:, None], values, rows, cols) + bias[:, None])

    def _folded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the convolution's weight (C, k) and bias (C,) with the batch normalisation folded in."""
        weight, bias, norm = self.conv.weight.flatten(1), self.conv.bias, self.norm
        mean, var = norm.running_mean, norm.running_var
        assert bias is not None and mean is not None and var is not None
        if norm.training:
            moments = _of_all_processes(*window_moments(x, weight.shape[1]))
            window_mean, covariance = (m.to(x.dtype) for m in moments)
            mean = weight @ window_mean + bias
            var = (weight @ covariance * weight).sum(1).clamp_min(0)
            self._update_running(mean.detach(), var.detach(), connected() * x[..., weight.shape[1] - 1:].numel())
        scale = norm.weight * torch.rsqrt(var + norm.eps)
        return weight * scale[:, None], (bias - mean) * scale + norm.bias

    def _update_running(self, mean: Tensor, var: Tensor, n: int) -> None:
        """Update the running statistics as BatchNorm2d does, with the unbiased variance of n positions."""
        norm = self.norm
        assert norm.running_mean is not None and norm.running_var is not None
        assert norm.num_batches_tracked is not None and norm.momentum is not None
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(var * (n / (n - 1)), norm.momentum)
        norm.num_batches_tracked += 1


def _of_all_processes(mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance over the batches of all processes, which have the same size."""
    if connected() == 1:
        return mean, covariance
    overall = mean_over_processes(mean)
    return overall, mean_over_processes(covariance + mean[:, None] * mean) - overall[:, None] * overall


@torch.no_grad()
def _search(x: Tensor, weight: Tensor, bias: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Return the convolution at the row where PReLU(convolution + bias) is largest, and that row: (B, C, P) each."""
    maxima = []
    for item in x:
        windows = item.unfold(1, weight.shape[1], 1).permute(1, 2, 0)  # (P, k, R), a view
        y = torch.bmm(weight.expand(len(windows), -1, -1), windows)
        rows = F.prelu(y + bias[:, None], slope).argmax(2, keepdim=True)
        maxima.append((y.gather(2, rows), rows))
    values, rows = (torch.stack(part).squeeze(3).transpose(1, 2) for part in zip(*maxima, strict=True))
    return values, rows
