"""The spectral kernels in Triton: equal to the reference and scipy, gradients included."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.signal
import torch
from measures import relative_rms
from test_kernels_spectral import SHAPES, TOLERANCE, audio, gradient, stereo_modes
from torch import Tensor
from triton_mode import compile_for_gpus, on_device, poisoned_empty, triton_on_cpu  # noqa: F401

from reknob.afx.kernels import spectral as door
from reknob.afx.kernels.reference import spectral as reference
from reknob.afx.kernels.triton_gpu import spectral

pytestmark = pytest.mark.usefixtures("triton_on_cpu")
ours = SimpleNamespace(
    fir=on_device(door.fir),
    stft_magnitude=on_device(door.stft_magnitude),
    stft_deviation=on_device(door.stft_deviation),
)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large blocks, which the interpreter runs as fast as small ones; unwritten elements are NaN."""
    monkeypatch.setattr(spectral, "BLOCK", 2048)
    monkeypatch.setattr(spectral, "empty", poisoned_empty)


def errors(shape: tuple[int, ...], dtype: torch.dtype, size: int, hop: int, mid_side: bool) -> list[float]:
    """Errors of magnitudes, sums and their gradient relative to the reference in float64."""
    window, index = torch.hann_window(size), torch.arange(shape[0]).flip(0)
    truth = reference.stft_magnitude(audio(shape, 1), window, hop, mid_side)
    target = ours.stft_magnitude(audio(shape, 1, dtype), window, hop, mid_side)
    assert target.dtype == dtype and target.shape == truth.shape
    x, x_triton = audio(shape, 2).requires_grad_(), audio(shape, 2, dtype).requires_grad_()
    expected = reference.stft_deviation(x, truth, index, window, hop, mid_side)
    sums = ours.stft_deviation(x_triton, target, index, window, hop, mid_side)
    assert sums.dtype == torch.float64 and sums.shape == expected.shape
    pairs = (target, truth), (sums, expected), (gradient(sums, x_triton), gradient(expected, x))
    return [relative_rms(a, b) for a, b in pairs]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_stft_passes_equal_the_reference_with_their_gradient(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    for mid_side in stereo_modes(shape):
        assert max(errors(shape, dtype, 64, 19, mid_side)) < TOLERANCE[dtype]


@pytest.mark.parametrize(("samples", "frame_samples"), [(333, 4096), (601, 5000), (19, 1)])
def test_frames_in_parts_give_the_same(samples: int, frame_samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectral, "FRAME_SAMPLES", frame_samples)
    monkeypatch.setattr(spectral, "BLOCK", 256)
    assert max(errors((3, 2, samples), torch.float64, 32, 11, True)) < 1e-9


@pytest.mark.parametrize(
    ("items", "samples", "size", "hop"), [(1, 2, 2, 1), (17, 5, 8, 8), (5, 9, 16, 2), (1, 700, 8, 30)]
)
def test_few_samples_and_any_hop_equal_the_reference(items: int, samples: int, size: int, hop: int) -> None:
    assert max(errors((items, 1, samples), torch.float64, size, hop, False)) < 1e-9


def test_more_pairs_than_a_grid_has_rows_take_several_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectral, "PAIRS", 2)
    assert max(errors((5, 2, 40), torch.float64, 16, 4, True)) < 1e-9


def test_the_gradient_is_the_derivative() -> None:
    window, index = torch.hann_window(4, dtype=torch.float64), torch.tensor([0])
    target = ours.stft_magnitude(audio((1, 2, 7), 4), window, 3, True)

    def sums(x: Tensor) -> Tensor:
        return ours.stft_deviation(x, target, index, window, 3, True)

    assert torch.autograd.gradcheck(sums, audio((1, 2, 7), 3).requires_grad_(), fast_mode=True)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_equal_signals_have_no_deviation_and_no_gradient(dtype: torch.dtype) -> None:
    x, window, index = audio((2, 2, 901), 5, dtype).requires_grad_(), torch.hann_window(64), torch.tensor([0, 1])
    target = ours.stft_magnitude(x, window, 16, True)
    sums = ours.stft_deviation(x, target, index, window, 16, True)
    assert not sums.any() and not gradient(sums, x).any()


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_silence_and_full_scale_have_finite_sums_and_gradients(dtype: torch.dtype) -> None:
    window, index = torch.hann_window(64), torch.tensor([0])
    silent, full = torch.zeros(1, 2, 500, dtype=dtype), audio((1, 2, 500), dtype=dtype).sign()
    for x, y in ((silent, full), (full, silent), (silent, silent)):
        x = x.clone().requires_grad_()
        sums = ours.stft_deviation(x, ours.stft_magnitude(y, window, 16, True), index, window, 16, True)
        assert torch.isfinite(sums).all() and torch.isfinite(gradient(sums, x)).all()


def test_sums_stay_finite_and_right_where_everything_differs_by_nine_decades() -> None:
    loud, silent = 1e5 * audio((1, 2, 1500)), torch.zeros(1, 2, 1500, dtype=torch.float64)
    window, index = torch.hann_window(256), torch.tensor([0])
    for x, y in ((loud, silent), (silent, loud)):
        target = ours.stft_magnitude(y, window, 64, mid_side=True)
        sums = ours.stft_deviation(x, target, index, window, 64, mid_side=True)
        expected = reference.stft_deviation(x, target, index, window, 64, mid_side=True)
        assert torch.isfinite(sums).all() and relative_rms(sums[..., 1], expected[..., 1]) < 1e-12


def test_nan_in_a_signal_affects_only_its_own_sums() -> None:
    x, index, window = audio((3, 1, 500), dtype=torch.float32), torch.arange(3), torch.hann_window(64)
    target = ours.stft_magnitude(x, window, 16)
    x[1, 0, 300] = torch.nan
    sums = ours.stft_deviation(x, target, index, window, 16)
    assert sums.isnan().tolist() == [[[False, False]], [[True, True]], [[False, False]]]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("rows", "samples", "count"), [(2, 601, 31), (1, 1, 101), (20, 3, 3), (2, 513, 1)])
def test_the_filter_equals_scipy_with_its_gradient(rows: int, samples: int, count: int, dtype: torch.dtype) -> None:
    x, weights = audio((rows, samples), dtype=dtype).requires_grad_(), audio((rows, samples), 1, dtype)
    taps = torch.randn(count, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def correlated(signal: Tensor, by: np.ndarray) -> Tensor:
        padded = np.pad(signal.detach().numpy(), ((0, 0), (count // 2, count // 2)))
        return torch.from_numpy(np.stack([scipy.signal.correlate(row, by, "valid") for row in padded]))

    y = ours.fir(x, taps)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}[dtype]
    assert y.dtype == dtype and relative_rms(y, correlated(x, taps.numpy())) < tolerance
    gradients = torch.autograd.grad((weights * y).sum(), x)[0]
    assert relative_rms(gradients, correlated(weights, taps.numpy()[::-1])) < tolerance


def test_every_kernel_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectral, "BLOCK", 512)

    def call() -> None:
        for dtype in TOLERANCE:
            errors((1, 2, 70), dtype, 16, 5, True)
            ours.fir(audio((2, 50), dtype=dtype).requires_grad_(), torch.ones(5)).sum().backward()

    compile_for_gpus(call)
