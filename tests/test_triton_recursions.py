"""The recursive kernels in Triton: equal to the reference and to the compiled loops, gradients included."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from measures import relative_rms
from test_kernels_recursions import (
    FRESH,
    KERNELS,
    TOLERANCE,
    apply,
    assert_all_close,
    audio,
    output_and_gradients,
    parameters,
    sections,
)
from torch import Tensor
from triton_mode import compile_for_gpus, on_device, poisoned_empty, triton_on_cpu  # noqa: F401

from reknob.afx import kernels
from reknob.afx.kernels.numba_cpu import recursions as compiled
from reknob.afx.kernels.reference import recursions as reference
from reknob.afx.kernels.triton_gpu import lanes, recursions

pytestmark = [
    pytest.mark.usefixtures("triton_on_cpu"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # lanes beyond the last divide by zero
]
ours = SimpleNamespace(**{name: on_device(getattr(kernels, name)) for name in KERNELS})
SAMPLES = 107


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short chunks, so that few samples fill many; outputs are filled with NaN, so that unwritten ones are detected."""
    monkeypatch.setattr(lanes, "SHORTEST", 8)
    monkeypatch.setattr(lanes, "LANES", 256)
    monkeypatch.setattr(lanes, "empty", poisoned_empty)
    monkeypatch.setattr(recursions, "empty", poisoned_empty)


@pytest.mark.parametrize(("coef_rows", "dtype"), [(1, torch.float64), (3, torch.float32)])
@pytest.mark.parametrize("name", KERNELS)
def test_triton_equals_the_reference(
    name: str, coef_rows: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "LANES", 32)
    x, params = audio(3, SAMPLES, dtype), parameters(name, coef_rows)
    actual, expected = (output_and_gradients(module, name, x, params) for module in (ours, reference))
    assert actual["output"].dtype == actual["gradient of x"].dtype == dtype
    assert_all_close(actual, expected, TOLERANCE[dtype])


@pytest.mark.parametrize(("rows", "samples"), [(1, 1), (5, 9)])
@pytest.mark.parametrize("name", KERNELS)
def test_triton_equals_the_reference_on_a_few_samples(name: str, rows: int, samples: int) -> None:
    x, params = audio(rows, samples), parameters(name, 1)
    actual, expected = (output_and_gradients(module, name, x, params) for module in (ours, reference))
    assert_all_close(actual, expected, 1e-9)


@pytest.mark.parametrize("name", KERNELS)
def test_long_rows_have_longer_chunks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, params = audio(2, 61), parameters(name, 1)
    monkeypatch.setattr(lanes, "CHUNKS", 5)
    assert lanes.chunk_size(61) == 16
    actual, expected = (output_and_gradients(module, name, x, params) for module in (ours, reference))
    assert_all_close(actual, expected, 1e-9)


@pytest.mark.parametrize("name", KERNELS)
def test_float32_audio_does_not_reduce_the_accuracy_of_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "SHORTEST", 16)
    x, params = audio(1, 120, torch.float32), parameters(name, 1)
    actual, expected = (output_and_gradients(ours, name, x.to(t), params) for t in (torch.float32, torch.float64))
    assert_all_close(actual, expected, 1e-6)


@pytest.mark.parametrize("name", KERNELS)
def test_one_gradient_alone_equals_the_same_gradient_among_all(name: str) -> None:
    x, params = audio(2, 9), parameters(name, 2)
    both = output_and_gradients(ours, name, x, params)
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    alone = x.clone().requires_grad_()
    apply(ours, name, alone, params).backward(weight)
    assert torch.equal(alone.grad, both["gradient of x"])
    leaves = {key: value.clone().requires_grad_() for key, value in params.items()}
    apply(ours, name, x, leaves).backward(weight)
    for key, leaf in leaves.items():
        assert torch.equal(leaf.grad, both[f"gradient of {key}"]), key


@pytest.mark.parametrize("name", KERNELS)
def test_a_second_backward_pass_gives_the_same_gradient(name: str) -> None:
    x = audio(2, 9).requires_grad_()
    leaves = {key: value.requires_grad_() for key, value in parameters(name, 2).items()}
    loss = apply(ours, name, x, leaves).square().sum()
    first, second = (torch.autograd.grad(loss, (x, *leaves.values()), retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", KERNELS)
def test_blocks_of_any_length_equal_one_call(name: str) -> None:
    x, params = audio(2, 43), parameters(name, 1)
    state, expected_state = FRESH[name].clone(), FRESH[name].clone()
    y = torch.cat([apply(ours, name, block, params, state) for block in x.split([1, 24, 18], dim=1)], dim=1)
    expected = apply(reference, name, x, params, expected_state)
    assert relative_rms(y, expected) <= 1e-9 and relative_rms(state, expected_state) <= 1e-9


@pytest.mark.parametrize("name", KERNELS)
def test_no_samples_give_no_samples_and_leave_the_state(name: str) -> None:
    state = FRESH[name].clone()
    assert apply(ours, name, torch.zeros(2, 0), parameters(name, 1), state).shape == (2, 0)
    assert torch.equal(state, FRESH[name])
    assert not output_and_gradients(ours, name, torch.zeros(2, 0), parameters(name, 1))["gradient of x"].numel()


@pytest.mark.parametrize("name", KERNELS)
def test_silence_and_full_scale_have_finite_outputs_and_gradients(name: str) -> None:
    square = torch.ones(SAMPLES)
    square[::2] = -1.0
    burst = torch.zeros(SAMPLES)
    burst[:10] = 1.0
    x = torch.stack([torch.zeros(SAMPLES), torch.ones(SAMPLES), square, burst])
    for key, value in output_and_gradients(ours, name, x, parameters(name, 1)).items():
        assert value.isfinite().all(), key


@pytest.mark.parametrize("name", KERNELS)
def test_not_a_number_spreads_to_the_end_of_its_row_alone(name: str) -> None:
    x, params = audio(2, SAMPLES), parameters(name, 1)
    expected = apply(ours, name, x, params)
    x[1, 50] = torch.nan
    y = apply(ours, name, x, params)
    assert relative_rms(y[0], expected[0]) == 0 and relative_rms(y[1, :50], expected[1, :50]) <= 1e-12
    assert y[1, 50:].isnan().all()


def hard_gains(samples: int) -> Tensor:
    """Gains (rows, samples) whose choices between attack and release converge slowly."""
    time = torch.arange(samples, dtype=torch.float64)
    noise = torch.rand(samples, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.stack(
        [
            torch.where(time // 30 % 2 == 0, 1.0, 0.1),
            1 - (time // 50) * (50 / samples),
            torch.where(time < samples / 2, 1e-4, 1.0),
            torch.where(time < samples / 2, 1.0, 1e-4),
            0.5 + 0.5 * (time * (2 * torch.pi * 2 / samples)).sin(),
            noise,
            (noise - 0.5).cumsum(0).mul(0.2).exp(),
        ]
    )


@pytest.mark.parametrize(("attack", "release"), [(0.9, 1e-4), (1e-4, 0.9), (0.02, 0.02), (0.05, 1e-3), (1.0, 0.0)])
def test_ballistics_settle_whatever_the_gain_does(attack: float, release: float) -> None:
    x = hard_gains(240)
    coefs = np.tile([attack, release], (len(x), 1))
    expected, _ = compiled.ballistics_forward(x.numpy(), coefs, np.ones(len(x)))
    y = ours.ballistics(x, *torch.tensor(coefs).T, 1.0)
    np.testing.assert_allclose(y, expected, rtol=1e-11)


def test_scratch_memory_is_limited_by_several_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    x, params = audio(3, 60), {"coefs": sections(3)}
    whole = output_and_gradients(ours, "biquad_cascade", x, params)
    monkeypatch.setattr(lanes, "SCRATCH", 1)
    monkeypatch.setattr(lanes, "LANES", 16)
    parts = output_and_gradients(ours, "biquad_cascade", x, params)
    assert all(torch.equal(parts[key], whole[key]) for key in whole)


def test_all_kernels_compile_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "LANES", 32)

    def run() -> None:
        for name in KERNELS:
            params = {"coefs": sections(1, 2)} if name == "biquad_cascade" else parameters(name, 1)
            output_and_gradients(ours, name, audio(1, 20, torch.float32), params)

    compile_for_gpus(run)
