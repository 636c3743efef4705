"""The spectral and loudness kernels: compiled passes equal the reference and scipy, gradients included."""

import numpy as np
import pytest
import scipy.signal
import torch
from measures import relative_rms
from torch import Tensor

from reknob.afx.kernels import loudness, spectral
from reknob.afx.kernels.numba_cpu import loudness as compiled_loudness
from reknob.afx.kernels.numba_cpu import spectral as compiled_spectral
from reknob.afx.kernels.reference import loudness as reference_loudness
from reknob.afx.kernels.reference import recursions
from reknob.afx.kernels.reference import spectral as reference_spectral

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
SHAPES = [(1, 2, 1001), (3, 2, 640), (3, 1, 777), (1, 1, 333), (2, 3, 501)]
COEFS = torch.tensor([[0.1, 0.004], [0.05, 0.002]], dtype=torch.float64)
SHIFTS = torch.tensor([37, 81])


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill every array that the back ends hand out with NaN, so that an unwritten element is detected."""

    def empty(shape: tuple, dtype: type = np.float64) -> np.ndarray:
        return np.full(shape, np.nan, dtype)

    monkeypatch.setattr(compiled_spectral, "empty", empty)
    monkeypatch.setattr(compiled_loudness, "empty", empty)


def audio(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Noise that fades to half a percent and back."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (0.2 * noise * (torch.arange(shape[-1]) * 0.01).cos().abs().clamp(min=0.005)).to(dtype)


def stereo_modes(shape: tuple[int, ...]) -> tuple[bool, ...]:
    """Whether mid and side are appended: with two channels both ways."""
    return (False, True) if shape[1] == 2 else (False,)


def gradient(sums: Tensor, x: Tensor) -> Tensor:
    """Gradient to x of the sums, weighted differently each."""
    weights = torch.rand(sums.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return torch.autograd.grad((weights * sums).sum(), x)[0]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_stft_passes_equal_the_reference_with_their_gradient(
    shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_spectral, "FRAME_SAMPLES", 600)
    window, hop = torch.hann_window(64), 19
    index = torch.arange(shape[0]).flip(0)
    for mid_side in stereo_modes(shape):
        truth = reference_spectral.stft_magnitude(audio(shape, 1), window, hop, mid_side)
        target = spectral.stft_magnitude(audio(shape, 1, dtype), window, hop, mid_side)
        assert target.dtype == dtype and target.shape == truth.shape
        assert relative_rms(target, truth) < TOLERANCE[dtype]
        x = audio(shape, 2).requires_grad_()
        expected = reference_spectral.stft_deviation(x, truth, index, window, hop, mid_side)
        x_backend = audio(shape, 2, dtype).requires_grad_()
        sums = spectral.stft_deviation(x_backend, target, index, window, hop, mid_side)
        assert relative_rms(sums, expected) < TOLERANCE[dtype]
        assert relative_rms(gradient(sums, x_backend), gradient(expected, x)) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_loudness_passes_equal_the_reference_with_their_gradient(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    index = torch.arange(shape[0]).flip(0)
    for mid_side in stereo_modes(shape):
        truth = reference_loudness.loudness_ratio(audio(shape, 1), COEFS, SHIFTS, mid_side)
        target = loudness.loudness_ratio(audio(shape, 1, dtype), COEFS, SHIFTS, mid_side)
        assert target.dtype == dtype and relative_rms(target, truth) < TOLERANCE[dtype]
        x = audio(shape, 2).requires_grad_()
        expected = reference_loudness.loudness_deviation(x, truth, index, COEFS, SHIFTS, mid_side)
        x_backend = audio(shape, 2, dtype).requires_grad_()
        sums = loudness.loudness_deviation(x_backend, target, index, COEFS, SHIFTS, mid_side)
        assert relative_rms(sums, expected) < TOLERANCE[dtype]
        assert relative_rms(gradient(sums, x_backend), gradient(expected, x)) < TOLERANCE[dtype]


def test_the_gradients_are_the_derivatives() -> None:
    window, index = torch.hann_window(16, dtype=torch.float64), torch.tensor([1, 0])
    x, y = audio((2, 2, 41), 3), audio((2, 2, 41), 4)
    target = spectral.stft_magnitude(y, window, 5, mid_side=True)
    ratio = loudness.loudness_ratio(y, COEFS, SHIFTS // 4, mid_side=True)

    def stft(signal: Tensor) -> Tensor:
        return spectral.stft_deviation(signal, target, index, window, 5, mid_side=True)

    def level(signal: Tensor) -> Tensor:
        return loudness.loudness_deviation(signal, ratio, index, COEFS, SHIFTS // 4, mid_side=True)

    for function in (stft, level):
        assert torch.autograd.gradcheck(function, x.requires_grad_())


def test_the_filter_equals_scipy_and_its_gradient_is_the_derivative() -> None:
    x = audio((3, 1234))
    taps = torch.randn(11, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = np.stack([scipy.signal.correlate(row, taps.numpy(), "same") for row in x.numpy()])
    for function in (spectral.fir, reference_spectral.fir):
        assert relative_rms(function(x, taps), torch.from_numpy(expected)) < 1e-12
    assert torch.autograd.gradcheck(spectral.fir, (x[:, :30].requires_grad_(), taps))


@pytest.mark.parametrize("samples", [1, 255, 256, 257, 1000])
def test_the_blockwise_average_equals_the_recursion(samples: int) -> None:
    x = audio((2, samples)).square()
    expected = recursions.one_pole(x, torch.tensor([0.003]))
    assert relative_rms(reference_loudness.one_pole(x, 0.003), expected) < 1e-6


def test_sums_stay_finite_and_right_where_everything_differs_by_nine_decades() -> None:
    loud, silent = 1e5 * audio((1, 2, 3000)), torch.zeros(1, 2, 3000, dtype=torch.float64)
    window, index = torch.hann_window(256), torch.tensor([0])
    for x, y in ((loud, silent), (silent, loud)):
        target = spectral.stft_magnitude(y, window, 64, mid_side=True)
        sums = spectral.stft_deviation(x, target, index, window, 64, mid_side=True)
        expected = reference_spectral.stft_deviation(x, target, index, window, 64, mid_side=True)
        assert torch.isfinite(sums).all() and relative_rms(sums[..., 1], expected[..., 1]) < 1e-12


def test_nan_in_a_signal_affects_only_its_own_sums() -> None:
    x, index, window = audio((3, 1, 2000), dtype=torch.float32), torch.arange(3), torch.hann_window(64)
    target = spectral.stft_magnitude(x, window, 16)
    ratio = loudness.loudness_ratio(x, COEFS, SHIFTS)
    x[1, 0, 1000] = torch.nan
    for sums in (
        spectral.stft_deviation(x, target, index, window, 16),
        loudness.loudness_deviation(x, ratio, index, COEFS, SHIFTS),
    ):
        assert sums.isnan().tolist() == [[[False, False]], [[True, True]], [[False, False]]]


def test_invalid_inputs_are_refused_with_what_is_allowed() -> None:
    x, window, index = audio((1, 2, 100)), torch.hann_window(64), torch.tensor([0])
    target = spectral.stft_magnitude(x, window, 16)
    refused = [
        ("give more than 128", lambda: spectral.stft_magnitude(x, torch.hann_window(256), 64)),
        ("give an even number", lambda: spectral.stft_magnitude(x, torch.hann_window(63), 16)),
        (r"give \(items, 2, samples\)", lambda: spectral.stft_magnitude(x[:, :1], window, 16, mid_side=True)),
        (r"needs \(4, 7, 33\)", lambda: spectral.stft_deviation(x, target, index, window, 16, mid_side=True)),
        ("needs .* torch.float32", lambda: spectral.stft_deviation(x.float(), target, index, window, 16)),
        ("one target for each of 1 items", lambda: spectral.stft_deviation(x, target, index.repeat(2), window, 16)),
        ("odd taps", lambda: spectral.fir(x[0], torch.ones(4))),
        ("give longer signals", lambda: loudness.loudness_ratio(x, COEFS, SHIFTS + 20)),
    ]
    for message, call in refused:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_what_the_cpu_gives() -> None:
    window, index = torch.hann_window(64), torch.tensor([1, 0, 1])
    x, y = audio((3, 2, 2000), 1).requires_grad_(), audio((2, 2, 2000), 2)
    there = x.detach().cuda().requires_grad_()
    target = spectral.stft_magnitude(y, window, 16, mid_side=True)
    ratio = loudness.loudness_ratio(y, COEFS, SHIFTS, mid_side=True)
    stft = (
        spectral.stft_deviation(x, target, index, window, 16, mid_side=True),
        spectral.stft_deviation(there, target.cuda(), index.cuda(), window, 16, mid_side=True),
    )
    level = (
        loudness.loudness_deviation(x, ratio, index, COEFS, SHIFTS, mid_side=True),
        loudness.loudness_deviation(there, ratio.cuda(), index.cuda(), COEFS, SHIFTS, mid_side=True),
    )
    for expected, sums in (stft, level):
        assert relative_rms(sums.cpu(), expected) < 1e-9
        expected.sum().backward()
        sums.sum().backward()
        assert relative_rms(there.grad.cpu(), x.grad) < 1e-9
