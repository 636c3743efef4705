"""The loudness kernels in Triton: equal to the reference, gradients included."""

from types import SimpleNamespace

import pytest
import torch
from measures import relative_rms
from test_kernels_spectral import COEFS, SHIFTS, TOLERANCE, audio, gradient
from torch import Tensor
from triton_mode import compile_for_gpus, on_device, poisoned_empty, triton_on_cpu  # noqa: F401

from reknob.afx.kernels import loudness as door
from reknob.afx.kernels.reference import loudness as reference
from reknob.afx.kernels.triton_gpu import lanes, loudness

pytestmark = [
    pytest.mark.usefixtures("triton_on_cpu"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # masked lanes divide by zero
]
ours = SimpleNamespace(
    loudness_ratio=on_device(door.loudness_ratio, stay=("coefs", "shifts")),
    loudness_deviation=on_device(door.loudness_deviation, stay=("coefs", "shifts")),
)
PAIRS = {"coefs": COEFS, "shifts": SHIFTS}
PAIR = {"coefs": COEFS[:1], "shifts": SHIFTS[:1]}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short chunks, so that few samples fill many; outputs are filled with NaN, so that unwritten ones are detected."""
    monkeypatch.setattr(lanes, "SHORTEST", 8)
    monkeypatch.setattr(lanes, "LANES", 512)
    monkeypatch.setattr(lanes, "empty", poisoned_empty)
    monkeypatch.setattr(loudness, "empty", poisoned_empty)


def deviations(
    module: object, x: Tensor, target: Tensor, index: Tensor, mid_side: bool, **pairs: Tensor
) -> tuple[Tensor, Tensor]:
    """The sums, and the gradient of a weighted sum of them."""
    x = x.clone().requires_grad_()
    sums = module.loudness_deviation(x, target, index, **pairs, mid_side=mid_side)
    return sums.detach(), gradient(sums, x)


@pytest.mark.parametrize(
    ("shape", "mid_side", "dtype"),
    [((1, 2, 151), True, torch.float64), ((1, 2, 110), False, torch.float32), ((3, 1, 96), False, torch.float64)],
)
def test_triton_equals_the_reference_with_its_gradient(
    shape: tuple[int, ...], mid_side: bool, dtype: torch.dtype
) -> None:
    index = torch.arange(shape[0]).flip(0)
    truth = reference.loudness_ratio(audio(shape, 1), COEFS, SHIFTS, mid_side)
    target = ours.loudness_ratio(audio(shape, 1, dtype), **PAIRS, mid_side=mid_side)
    assert target.dtype == dtype and relative_rms(target, truth) < TOLERANCE[dtype]
    expected = deviations(reference, audio(shape, 2), truth, index, mid_side, **PAIRS)
    actual = deviations(ours, audio(shape, 2, dtype), target, index, mid_side, **PAIRS)
    assert actual[0].dtype == torch.float64 and actual[1].dtype == dtype
    assert all(relative_rms(a, b) < TOLERANCE[dtype] for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize(("items", "samples"), [(1, 2), (17, 9)])
def test_triton_equals_the_reference_on_a_few_samples(items: int, samples: int) -> None:
    x, target = audio((items, 2, samples), 1), reference.loudness_ratio(audio((1, 2, samples), 2), COEFS, SHIFTS // 81)
    index, pairs = torch.zeros(items).long(), {"coefs": COEFS, "shifts": SHIFTS // 81}
    expected, actual = (deviations(module, x, target, index, False, **pairs) for module in (reference, ours))
    assert all(relative_rms(a, b) < 1e-9 for a, b in zip(actual, expected, strict=True))


def test_several_launches_and_longer_chunks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, index = audio((1, 2, 70), 3), torch.tensor([0])
    target = ours.loudness_ratio(audio((1, 2, 70), 4), **PAIR, mid_side=True)
    expected = deviations(ours, x, target, index, True, **PAIR)
    monkeypatch.setattr(lanes, "SCRATCH", 1)
    monkeypatch.setattr(lanes, "LANES", 32)
    assert all(map(torch.equal, deviations(ours, x, target, index, True, **PAIR), expected))
    monkeypatch.setattr(lanes, "CHUNKS", 4)
    for a, b in zip(deviations(ours, x, target, index, True, **PAIR), expected, strict=True):
        assert relative_rms(a, b) < 1e-12


def test_silence_and_full_scale_have_finite_sums_and_gradients_and_no_deviation_from_themselves() -> None:
    x = torch.stack([torch.zeros(2, 100), torch.ones(2, 100), torch.ones(2, 100)])
    x[2, :, :50] = 0
    target = ours.loudness_ratio(x, **PAIR, mid_side=True)
    assert target.isfinite().all()
    sums, grad = deviations(ours, x.repeat(2, 1, 1), target, torch.tensor([0, 1, 2, 1, 2, 0]), True, **PAIR)
    assert sums.isfinite().all() and grad.isfinite().all()
    assert not sums[:3].any() and not grad[:3].any()
    assert sums[3:].any()


def test_nan_in_a_signal_affects_only_its_own_sums_and_gradient() -> None:
    x, index = audio((3, 1, 200), dtype=torch.float32), torch.arange(3)
    ratio = ours.loudness_ratio(x, **PAIR)
    x[1, 0, 100] = torch.nan
    sums, grad = deviations(ours, x, ratio, index, False, **PAIR)
    assert sums.isnan().flatten().tolist() == [False, True, False]
    assert grad[[0, 2]].isfinite().all() and grad[1].isnan().any()


def test_all_kernels_compile_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "LANES", 32)

    def run() -> None:
        x = audio((1, 2, 50), 1, torch.float32)
        target = ours.loudness_ratio(x, **PAIR, mid_side=True)
        deviations(ours, x, target, torch.tensor([0]), True, **PAIR)

    compile_for_gpus(run)
