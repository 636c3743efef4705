"""The compiled response of a feedback delay network equals the torch program, outputs and every gradient."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from measures import relative_rms
from scipy.signal import fftconvolve
from torch import Tensor

from reknob.afx.functional.fdn import line_gains
from reknob.afx.kernels import fdn_response
from reknob.afx.kernels.numba_cpu import fdn as compiled
from reknob.afx.kernels.reference import fdn as reference

GOLDEN = Path(__file__).parent / "golden" / "diffvox"
NAMES = ("feedback", "line_gain", "b", "c", "delays")
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
LINES = (997.0, 1153.0, 1327.0, 1559.0, 1801.0, 2099.0)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elements that the kernels do not write are NaN."""

    def poison(shape: tuple[int, ...], dtype: type) -> np.ndarray:
        return np.full(shape, np.nan, dtype)

    monkeypatch.setattr(compiled, "empty", poison)


def network(lines: int, groups: int, n: int, dtype: torch.dtype, inputs: int = 2, outputs: int = 2) -> list[Tensor]:
    """A random network with orthogonal feedback and float delays, in the order of NAMES, all requiring gradients."""
    rng = torch.Generator().manual_seed(lines + 10 * groups + n)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    feedback = torch.linalg.qr(draw(groups, lines, lines))[0]
    line_gain = 0.9 * draw(groups, lines, n // 2 + 1).sigmoid()
    delays = 20 + 50 * draw(groups, lines).sigmoid()
    drawn = feedback, line_gain, draw(groups, lines, inputs), draw(groups, outputs, lines), delays
    return [t.to(dtype).requires_grad_() for t in drawn]


def response_and_grads(program: Callable[..., Tensor], inputs: list[Tensor], n: int) -> dict[str, Tensor]:
    """H and the gradients of a fixed random weighting of it, by name."""
    H = program(*inputs, n)
    weights = torch.randn(*H.shape, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    loss = (torch.view_as_real(H) * weights.to(H.real.dtype)).sum()
    wanted = [t for t in inputs if t.requires_grad]
    names = [name for name, t in zip(NAMES, inputs, strict=True) if t.requires_grad]
    return {"H": torch.view_as_real(H), **dict(zip(names, torch.autograd.grad(loss, wanted), strict=True))}


def assert_equal(ours: dict[str, Tensor], truth: dict[str, Tensor], tolerance: float) -> None:
    assert ours.keys() == truth.keys()
    errors = {name: relative_rms(ours[name], truth[name]) for name in truth}
    assert all(error < tolerance for error in errors.values()), errors


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    "lines, groups, n", [(1, 1, 33), (2, 3, 64), (6, 1, 1001), (7, 3, 301), (6, 2, 5000), (16, 1, 77)]
)
def test_outputs_and_every_gradient_equal_the_reference(lines: int, groups: int, n: int, dtype: torch.dtype) -> None:
    inputs = network(lines, groups, n, dtype)
    ours = response_and_grads(fdn_response, inputs, n)
    assert all(value.dtype == dtype for value in ours.values())
    assert_equal(ours, response_and_grads(reference.fdn_response, inputs, n), TOLERANCE[dtype])


@pytest.mark.parametrize("inputs, outputs", [(1, 3), (3, 1)])
def test_any_number_of_inputs_and_outputs_equals_the_reference(inputs: int, outputs: int) -> None:
    tensors = network(4, 2, 101, torch.float64, inputs, outputs)
    ours = response_and_grads(fdn_response, tensors, 101)
    assert_equal(ours, response_and_grads(reference.fdn_response, tensors, 101), 1e-9)


def test_gradients_pass_gradcheck() -> None:
    inputs = network(3, 2, 9, torch.float64)
    assert torch.autograd.gradcheck(lambda *tensors: fdn_response(*tensors, 9), inputs)


def test_float32_equals_float64_at_the_published_size() -> None:
    n = 529200
    inputs = [t.detach() for t in network(6, 1, n, torch.float32)]
    inputs[4] = torch.tensor([LINES], dtype=torch.float32)
    single = fdn_response(*inputs, n)
    double = fdn_response(*(t.double() for t in inputs), n)
    assert relative_rms(torch.view_as_real(single), torch.view_as_real(double)) < 2e-6


def test_phases_stay_exact_at_the_highest_bins() -> None:
    n, delay = 529200, 2099
    one = torch.ones(1, 1, 1)
    H = fdn_response(0 * one, torch.ones(1, 1, n // 2 + 1), one, one, torch.tensor([[delay]]), n)
    turns = (np.arange(n // 2 + 1, dtype=np.int64) * delay % n) / n
    assert np.abs(H[0, 0, 0].numpy() - np.exp(-2j * math.pi * turns)).max() < 2e-7


def test_integer_delays_equal_float_delays() -> None:
    *inputs, _ = network(6, 2, 301, torch.float64)
    whole = torch.randint(20, 60, (2, 6), generator=torch.Generator().manual_seed(0))
    ours = response_and_grads(fdn_response, [*inputs, whole], 301)
    truth = response_and_grads(fdn_response, [*inputs, whole.double()], 301)
    assert_equal(ours, truth, 1e-15)


def test_a_leading_dimension_of_one_is_shared_by_all_networks_and_gets_the_sum_of_their_gradients() -> None:
    inputs = network(3, 4, 65, torch.float64)
    shared = [t if name == "line_gain" else t[:1] for name, t in zip(NAMES, inputs, strict=True)]
    expanded = [t.expand(4, *t.shape[1:]) for t in shared]
    ours = response_and_grads(fdn_response, shared, 65)
    truth = response_and_grads(reference.fdn_response, expanded, 65)
    for name in NAMES:
        if name != "line_gain":
            truth[name] = truth[name].sum(0, keepdim=True)
    assert_equal(ours, truth, 1e-9)


def test_impulse_response_equals_the_recursion_in_time() -> None:
    inputs = [t.detach() for t in network(3, 1, 4096, torch.float64)]
    delays, gain = torch.tensor([[7, 11, 13]]), torch.tensor([0.5, 0.6, 0.7], dtype=torch.float64)
    inputs[1], inputs[4] = gain[None, :, None].expand(1, 3, 2049), delays
    h = torch.fft.irfft(fdn_response(*inputs, 4096), n=4096)[0]
    feedback, _, b, c, _ = (t[0] for t in inputs)
    lines = torch.zeros(3, 300, dtype=torch.float64)
    y = torch.zeros(2, 300, dtype=torch.float64)
    for n in range(300):
        out = torch.stack([lines[i, n - m] if n >= m else lines.new_zeros(()) for i, m in enumerate(delays[0])])
        y[:, n] = c @ out
        lines[:, n] = feedback @ (gain * out) + (b[:, 0] if n == 0 else 0)
    assert relative_rms(h[:, 0, :300], y) < 1e-9


@pytest.mark.parametrize("name, shared", [("FDN_49_noeq", True), ("FDN_49_dep", False)])
def test_response_equals_the_published_release(name: str, shared: bool) -> None:
    golden, x = np.load(GOLDEN / f"{name}.npz"), np.load(GOLDEN / "inputs.npz")["x2"][0].astype(np.float64)
    n = 44100
    feedback, b, c, gamma = (torch.from_numpy(golden[f"val/params.{key}"]) for key in ("U", "b", "c", "gamma"))
    delays = torch.from_numpy(golden["const/delays"])
    gains = line_gains(gamma, delays, n // 2 + 1, shared)
    H = fdn_response(feedback[None], gains[None], b[None], c[None], delays[None], n)
    h = torch.fft.irfft(H, n=n)[0].numpy()
    y = fftconvolve(x[None], h, axes=-1).sum(1)[:, : x.shape[-1]]
    assert relative_rms(y, golden["out_f64"][0]) < 1e-6


@pytest.mark.parametrize(
    "name, shape, message",
    [
        ("line_gain", (2, 3, 32), r"line_gain has shape \(2, 3, 32\); give \(2 or 1, 3, 33\)"),
        ("b", (2, 2), r"b has shape \(2, 2\); give \(2 or 1, 3, 2\)"),
        ("c", (2, 2, 4), r"c has shape \(2, 2, 4\); give \(2 or 1, 2, 3\)"),
        ("delays", (2, 4), r"delays has shape \(2, 4\); give \(2 or 1, 3\)"),
    ],
)
def test_a_wrong_shape_is_named_with_the_right_one(name: str, shape: tuple[int, ...], message: str) -> None:
    inputs = dict(zip(NAMES, network(3, 2, 65, torch.float32), strict=True)) | {name: torch.ones(shape)}
    with pytest.raises(ValueError, match=message):
        fdn_response(**inputs, n=65)


def test_an_unknown_float_type_is_refused() -> None:
    inputs = [t.half() for t in network(3, 2, 65, torch.float32)]
    with pytest.raises(ValueError, match="make torch.float16; give float32 or float64"):
        fdn_response(*inputs, 65)
