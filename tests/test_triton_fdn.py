"""The response of a feedback delay network in Triton: equal to the reference, outputs and every gradient."""

import math

import pytest
import torch
from test_kernels_fdn import NAMES, TOLERANCE, assert_equal, network, response_and_grads
from torch import Tensor
from triton_mode import DEVICE, compile_for_gpus, on_device, poisoned_empty, triton_on_cpu  # noqa: F401

from reknob.afx import kernels
from reknob.afx.kernels.reference import fdn as reference
from reknob.afx.kernels.triton_gpu import fdn

pytestmark = pytest.mark.usefixtures("triton_on_cpu")
response = on_device(kernels.fdn_response)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks, so that few bins fill several; outputs are filled with NaN, so that unwritten ones are detected."""
    monkeypatch.setattr(fdn, "BLOCK", 64)
    monkeypatch.setattr(fdn, "SPAN", 1)
    monkeypatch.setattr(fdn, "empty", poisoned_empty)


@pytest.mark.parametrize(
    ("lines", "groups", "n", "dtype"),
    [
        (1, 1, 1, torch.float32),
        *((2, 3, 64, dtype) for dtype in TOLERANCE),
        (6, 1, 130, torch.float32),
        (5, 2, 126, torch.float64),
    ],
)
def test_outputs_and_every_gradient_equal_the_reference(lines: int, groups: int, n: int, dtype: torch.dtype) -> None:
    inputs = network(lines, groups, n, dtype)
    ours = response_and_grads(response, inputs, n)
    assert all(value.dtype == dtype for value in ours.values())
    assert_equal(ours, response_and_grads(reference.fdn_response, inputs, n), TOLERANCE[dtype])


def test_many_lines_equal_the_reference() -> None:
    inputs = network(16 if DEVICE == "cuda" else 9, 1, 9, torch.float64)  # the interpreter's time grows with their cube
    assert_equal(response_and_grads(response, inputs, 9), response_and_grads(reference.fdn_response, inputs, 9), 1e-9)


@pytest.mark.parametrize(("span", "inputs", "outputs"), [(1, 1, 3), (3, 3, 1)])
def test_any_number_of_inputs_outputs_and_blocks_equals_the_reference(
    span: int, inputs: int, outputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fdn, "SPAN", span)
    monkeypatch.setattr(fdn, "BLOCK", 16)
    tensors = network(3, 1, 101, torch.float64, inputs, outputs)
    ours = response_and_grads(response, tensors, 101)
    assert_equal(ours, response_and_grads(reference.fdn_response, tensors, 101), 1e-9)


def test_many_networks_of_few_bins_equal_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fdn, "BLOCK", 4)
    inputs = network(1, 17, 3, torch.float64, 1, 1)
    assert_equal(response_and_grads(response, inputs, 3), response_and_grads(reference.fdn_response, inputs, 3), 1e-9)


def test_gradients_pass_gradcheck() -> None:
    inputs = network(2, 1, 5, torch.float64, 1, 1)
    assert torch.autograd.gradcheck(lambda *tensors: response(*tensors, 5), inputs, fast_mode=True)


# In float64 ours and what is expected round a turn two times and once, by 2^-53 each: 6 pi 2^-53 = 2.1e-15.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-7), (torch.float64, 2.5e-15)])
def test_phases_stay_exact_at_the_highest_bins(
    dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fdn, "BLOCK", 1 << 17 if DEVICE == "cpu" else 128)
    n, delay = 529200, 2099
    one = torch.ones(1, 1, 1, dtype=dtype)
    H = response(0 * one, torch.ones(1, 1, n // 2 + 1, dtype=dtype), one, one, torch.tensor([[delay]]), n)
    turns = (torch.arange(n // 2 + 1) * delay % n).double() / n
    expected = torch.polar(torch.ones_like(turns), -2 * math.pi * turns)
    assert (H[0, 0, 0].to(expected.dtype) - expected).abs().max() < tolerance


def test_integer_delays_equal_float_delays() -> None:
    *inputs, _ = network(3, 2, 101, torch.float64)
    whole = torch.randint(20, 60, (2, 3), generator=torch.Generator().manual_seed(0))
    ours = response_and_grads(response, [*inputs, whole], 101)
    truth = response_and_grads(reference.fdn_response, [*inputs, whole.double()], 101)
    truth.pop("delays", None)
    assert_equal(ours, truth, 1e-9)


def test_a_leading_dimension_of_one_is_shared_by_all_networks_and_gets_the_sum_of_their_gradients() -> None:
    inputs = network(3, 4, 65, torch.float64)
    shared = [t if name == "line_gain" else t[:1] for name, t in zip(NAMES, inputs, strict=True)]
    truth = response_and_grads(reference.fdn_response, [t.expand(4, *t.shape[1:]) for t in shared], 65)
    gathered = {name: truth[name].sum(0, keepdim=True) for name in NAMES if name != "line_gain"}
    assert_equal(response_and_grads(response, shared, 65), truth | gathered, 1e-9)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("gain", "scale"), [(0.0, 1.0), (0.9999, 1e6), (1.0, 0.0)])
def test_silent_and_loud_networks_have_finite_responses_and_gradients(
    gain: float, scale: float, dtype: torch.dtype
) -> None:
    feedback, line_gain, b, c, delays = (t.detach() for t in network(2, 1, 64, dtype))
    inputs: list[Tensor] = [feedback, torch.full_like(line_gain, gain), scale * b, c, delays]
    results = response_and_grads(response, [t.requires_grad_() for t in inputs], 64)
    assert all(torch.isfinite(value).all() for value in results.values())


def test_every_kernel_compiles() -> None:
    networks = [network(2, 1, 9, dtype, 1, 2) for dtype in TOLERANCE]
    compile_for_gpus(lambda: [response_and_grads(response, inputs, 9) for inputs in networks])
