"""Products of spectra in Triton: equal to the reference, and what convolution needs."""

import pytest
import torch
from measures import relative_rms
from scipy.signal import fftconvolve
from test_convolve import noise
from torch import Tensor
from triton_mode import compile_for_gpus, on_device, poisoned_empty, triton_on_cpu  # noqa: F401

from reknob.afx.functional.convolve import convolve
from reknob.afx.kernels import spectral_product as door
from reknob.afx.kernels.reference import spectral_product as reference
from reknob.afx.kernels.triton_gpu import spectral_product

pytestmark = pytest.mark.usefixtures("triton_on_cpu")
TOLERANCE = {torch.complex64: 1e-6, torch.complex128: 1e-14}
outputs, to_inputs, to_paths = map(on_device, (door.outputs, door.to_inputs, door.to_paths))


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elements that a kernel does not write are NaN."""
    monkeypatch.setattr(spectral_product, "empty", poisoned_empty)


def errors(items: int, groups: int, paths: tuple[int, int], count: int, dtype: torch.dtype) -> list[float]:
    """Errors of the three products of random spectra relative to the reference."""
    shapes = (groups, *paths), (items, paths[1]), (items, paths[0])
    H, X, G = (noise(*shape, count, seed=k, dtype=dtype) for k, shape in enumerate(shapes))
    pairs = [
        (outputs(H, X), reference.outputs(H, X)),
        (to_inputs(H, G), reference.to_inputs(H, G)),
        (to_paths(X, G, groups), reference.to_paths(X, G, groups)),
    ]
    assert all(product.dtype == dtype and product.shape == truth.shape for product, truth in pairs)
    return [relative_rms(torch.view_as_real(product), torch.view_as_real(truth)) for product, truth in pairs]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("count", [1, 256, 601])
@pytest.mark.parametrize(("groups", "paths"), [(1, (2, 1)), (2, (3, 2)), (4, (1, 2))])
def test_products_of_spectra_equal_the_reference(
    groups: int, paths: tuple[int, int], count: int, dtype: torch.dtype
) -> None:
    assert max(errors(4, groups, paths, count, dtype)) < TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("programs", "items", "groups"), [(1, 13, 1), (7, 13, 1), (3, 20, 2), (2048, 1, 1), (1, 16, 16)]
)
def test_any_division_of_the_signals_gives_the_same(
    programs: int, items: int, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spectral_product, "PROGRAMS", programs)
    assert max(errors(items, groups, (2, 2), 5, torch.complex128)) < 1e-14


def test_conjugate_views_are_resolved() -> None:
    H, X = noise(1, 2, 2, 9, dtype=torch.complex128), noise(3, 2, 9, seed=1, dtype=torch.complex128)
    product = outputs(H.conj(), X[..., ::3].repeat_interleave(3, -1))
    expected = reference.outputs(H.conj(), X[..., ::3].repeat_interleave(3, -1))
    assert relative_rms(torch.view_as_real(product), torch.view_as_real(expected)) < 1e-14


def products(x: Tensor, h: Tensor) -> Tensor:
    return on_device(convolve)(x, h, 41)


@pytest.mark.parametrize(("items", "samples", "taps"), [(3, 300, 70), (1, 5000, 70)])
def test_convolution_equals_scipys(items: int, samples: int, taps: int) -> None:
    x, h = noise(items, 2, samples, seed=1), noise(2, 2, taps, seed=2)
    expected = fftconvolve(x[:, None], h[None], axes=-1).sum(2)[..., 41:samples]
    assert relative_rms(products(x, h), torch.from_numpy(expected)) < 1e-12


def test_gradients_of_a_convolution_are_the_derivatives() -> None:
    x, h = noise(2, 1, 44).requires_grad_(), noise(2, 2, 1, 3, seed=1).requires_grad_()
    weights = noise(2, 2, 3, seed=2)
    grad_x, grad_h = torch.autograd.grad((weights * products(x, h)).sum(), (x, h))
    shifted = x.detach().unfold(-1, 3, 1)[..., -3:, :].flip(-1)  # the sample that each tap meets at each output
    assert torch.allclose(grad_h, torch.einsum("bot,bitk->boik", weights, shifted))
    for t in (38, 39, 41, 43):
        taps = [(k, 41 + k - t) for k in range(3) if 0 <= 41 + k - t < 3]
        expected = sum((weights[..., k] * h.detach()[:, :, 0, tap]).sum(1) for k, tap in taps)
        assert torch.allclose(grad_x[:, 0, t], torch.as_tensor(expected, dtype=x.dtype))


def test_every_kernel_compiles() -> None:
    compile_for_gpus(lambda: [errors(2, 1, (2, 1), 5, dtype) for dtype in TOLERANCE])
