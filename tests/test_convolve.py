"""Convolution of any lengths equals scipy, gradients are right, and products of spectra equal the reference."""

import numpy as np
import pytest
import torch
from measures import relative_rms
from scipy.signal import fftconvolve
from torch import Tensor

from reknob.afx.functional.convolve import advance, convolve, in_series
from reknob.afx.functional.fft import fast_length
from reknob.afx.kernels import spectral_product
from reknob.afx.kernels.numba_cpu import spectral_product as compiled
from reknob.afx.kernels.reference import spectral_product as reference


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill every array that the back end hands out with NaN, so that an element left unwritten is seen."""
    monkeypatch.setattr(compiled, "empty", lambda shape, dtype: np.full(shape, np.nan, dtype))


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("count", [1, 1024, 2049])
def test_products_of_spectra_equal_the_reference(groups: int, dtype: torch.dtype, count: int) -> None:
    H, X, G = (noise(*s, count, seed=s[0], dtype=dtype) for s in ((groups, 3, 2), (4, 2), (4, 3)))
    tolerance = 1e-5 if dtype == torch.complex64 else 1e-12
    pairs = [
        (spectral_product.outputs(H, X), reference.outputs(H, X)),
        (spectral_product.to_inputs(H, G), reference.to_inputs(H, G)),
        (spectral_product.to_paths(X, G, groups), reference.to_paths(X, G, groups)),
    ]
    for compiled_one, truth in pairs:
        assert relative_rms(torch.view_as_real(compiled_one), torch.view_as_real(truth)) < tolerance


@pytest.mark.parametrize("skip", [0, 41])
@pytest.mark.parametrize(
    ("samples", "taps"), [(1, 1), (300, 1), (300, 70), (300, 300), (300, 900), (9000, 1), (9000, 70), (20000, 2400)]
)
def test_convolution_equals_scipys(samples: int, taps: int, skip: int) -> None:
    x, h = noise(3, 2, samples, seed=1), noise(4, 2, taps, seed=2)
    expected = fftconvolve(x[:, None], h[None], axes=-1).sum(2)[..., skip:samples]
    y = convolve(x, h, skip)
    assert y.shape == expected.shape
    if y.numel():
        assert relative_rms(y, torch.from_numpy(expected)) < 1e-12


@pytest.mark.parametrize(("samples", "taps"), [(50, 20), (50, 80), (9001, 3)])
def test_gradients_of_a_convolution(samples: int, taps: int) -> None:
    x, h = noise(4, 2, samples).requires_grad_(), noise(2, 3, 2, taps, seed=1).requires_grad_()
    weight = noise(4, 3, samples - 7, seed=2)
    grads = torch.autograd.grad((convolve(x, h, 7) * weight).sum(), (x, h))
    rows, responses = x.detach(), h.detach().repeat_interleave(2, 0)
    for k in (0, samples // 2, samples - 1):
        shifted = torch.nn.functional.pad(responses, (k, 0))[..., 7:samples]
        shifted = torch.nn.functional.pad(shifted, (0, samples - 7 - shifted.shape[-1]))
        assert torch.allclose(grads[0][..., k], torch.einsum("boit,bot->bi", shifted, weight))
    for k in (0, min(taps, samples) - 1):
        delayed = torch.nn.functional.pad(rows, (k, 0))[..., 7:samples]
        expected = torch.einsum("bit,bot->boi", delayed, weight).unflatten(0, (2, 2)).sum(1)
        assert torch.allclose(grads[1][..., k], expected)


def test_one_sound_meets_the_responses_of_many_items() -> None:
    x, h = noise(1, 1, 200), noise(3, 2, 1, 50, seed=1)
    assert relative_rms(convolve(x, h), torch.cat([convolve(x, one) for one in h])) < 1e-12


@pytest.mark.parametrize("lead", [(), (3,)])
def test_responses_in_series(lead: tuple[int, ...]) -> None:
    first, second = noise(2, 1, 60), noise(*lead, 2, 2, 90, seed=1)
    expected = fftconvolve(second, first[:, 0].expand_as(second[..., :60]), axes=-1).sum(-2)
    series = in_series(first, second)
    assert series.shape == (*lead, 2, 1, 149)
    assert relative_rms(series.squeeze(-2), torch.from_numpy(expected)) < 1e-12


def test_advancing_by_whole_samples_moves_the_signal_and_repeats_its_end() -> None:
    x = noise(2, 1, 5000)
    expected = torch.cat([x[..., 9:], x[..., -1:].expand(-1, -1, 9)], -1)
    assert relative_rms(advance(x, torch.tensor(9.0), 4, 12), expected) < 1e-12


def test_fast_lengths_are_long_enough_and_not_much_longer() -> None:
    for n in (1, 2, 100, 4097, 529200, 705599, 1058399):
        assert n <= fast_length(n) <= max(1.25 * n, n + 128)
