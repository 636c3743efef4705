"""The recursive kernels: compiled loops equal the reference and scipy, gradients included, at any block length."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from measures import relative_rms
from scipy.signal import butter, sosfilt
from torch import Tensor

from reknob.afx.kernels import ballistics, biquad_cascade, compressor_gain, one_pole
from reknob.afx.kernels.numba_cpu import recursion_loops, recursions
from reknob.afx.kernels.reference import recursions as reference

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-6}
KERNELS = ("biquad_cascade", "one_pole", "ballistics", "compressor_gain")
PAST_A_BLOCK = recursion_loops.BLOCK + 99
COMPRESSOR = {
    "avg": (0.05, 0.3),
    "cmp_threshold": (-24.0, -18.0),
    "cmp_slope": (0.5, 0.8),
    "exp_threshold": (-50.0, -40.0),
    "exp_slope": (-1.5, -0.5),
    "attack": (0.01, 0.1),
    "release": (0.001, 0.02),
}
FRESH = {
    "biquad_cascade": torch.zeros(2, 3, 2, dtype=torch.float64),
    "one_pole": torch.zeros(2, dtype=torch.float64),
    "ballistics": torch.ones(2, dtype=torch.float64),
    "compressor_gain": torch.tensor([[0.0, 1.0]] * 2, dtype=torch.float64),
}


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill every array that the back end hands out with NaN, so that an unwritten element is detected."""

    def empty(shape: tuple, dtype: type = np.float64) -> np.ndarray:
        return np.full(shape, np.nan, dtype)

    monkeypatch.setattr(recursions, "np", SimpleNamespace(empty=empty))


def audio(rows: int, samples: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Noise between silence and full scale, a different one in every row."""
    noise = torch.randn(rows, samples, generator=torch.Generator().manual_seed(samples), dtype=torch.float64)
    level = torch.cos(torch.arange(samples) * 0.02 + torch.arange(rows)[:, None]).abs() ** 6
    return (noise * level).to(dtype)


def sections(rows: int, count: int = 3) -> Tensor:
    """Coefficients (rows, count, 5) of stable band-pass filters, other bands in every row."""
    sos = [butter(count, (0.02 + 0.01 * r, 0.5 + 0.03 * r), "bandpass", output="sos") for r in range(rows)]
    return torch.tensor(np.delete(np.stack(sos), 3, axis=2))


def parameters(name: str, rows: int) -> dict[str, Tensor]:
    """Make float64 parameters of a kernel for `rows` rows."""
    if name == "biquad_cascade":
        return {"coefs": sections(rows)}
    ranges = COMPRESSOR if name == "compressor_gain" else {"coef": (0.01, 0.2)}
    if name == "ballistics":
        ranges = {"attack": (0.05, 0.3), "release": (0.01, 0.1)}
    generator = torch.Generator().manual_seed(rows)
    draws = {key: torch.rand(rows, generator=generator, dtype=torch.float64) for key in ranges}
    return {key: low + (high - low) * draws[key] for key, (low, high) in ranges.items()}


def apply(module: object, name: str, x: Tensor, params: dict[str, Tensor], state: Tensor | None = None) -> Tensor:
    """Call a kernel of a module by name; ballistics start from 1."""
    initial = (1.0,) if name == "ballistics" else ()
    return getattr(module, name)(x, *params.values(), *initial, state=state)


ours = SimpleNamespace(
    biquad_cascade=biquad_cascade, one_pole=one_pole, ballistics=ballistics, compressor_gain=compressor_gain
)


def output_and_gradients(module: object, name: str, x: Tensor, params: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name the output and the gradient of a weighted sum of it to x and to every parameter."""
    leaves = {"x": x.clone().requires_grad_(), **{k: v.clone().requires_grad_() for k, v in params.items()}}
    y = apply(module, name, leaves["x"], {k: leaves[k] for k in params})
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(y.dtype)
    y.backward(weight)
    return {"output": y.detach()} | {f"gradient of {k}": v.grad for k, v in leaves.items()}


def assert_all_close(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    errors = {key: relative_rms(actual[key], expected[key]) for key in expected}
    assert all(error <= tolerance for error in errors.values()), errors


@pytest.mark.parametrize(
    ("rows", "coef_rows", "dtype"),
    [(1, 1, torch.float64), (3, 1, torch.float64), (3, 3, torch.float64), (3, 3, torch.float32)],
)
@pytest.mark.parametrize("name", KERNELS)
def test_compiled_loops_equal_the_reference(name: str, rows: int, coef_rows: int, dtype: torch.dtype) -> None:
    x, params = audio(rows, PAST_A_BLOCK, dtype), parameters(name, coef_rows)
    actual, expected = (output_and_gradients(module, name, x, params) for module in (ours, reference))
    assert actual["output"].dtype == actual["gradient of x"].dtype == dtype
    assert_all_close(actual, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("samples", [1, 2, 3, 17])
@pytest.mark.parametrize("name", KERNELS)
def test_compiled_loops_equal_the_reference_on_a_few_samples(name: str, samples: int) -> None:
    x, params = audio(2, samples), parameters(name, 2)
    actual, expected = (output_and_gradients(module, name, x, params) for module in (ours, reference))
    assert_all_close(actual, expected, 1e-9)


@pytest.mark.parametrize("module", [ours, reference], ids=("compiled", "reference"))
@pytest.mark.parametrize("name", KERNELS)
def test_gradients_equal_finite_differences(name: str, module: object) -> None:
    x, params = audio(2, 6).requires_grad_(), parameters(name, 1)

    def function(x: Tensor, *values: Tensor) -> Tensor:
        return apply(module, name, x, dict(zip(params, values, strict=True)))

    assert torch.autograd.gradcheck(function, (x, *(v.requires_grad_() for v in params.values())))


@pytest.mark.parametrize("name", KERNELS)
def test_float32_audio_does_not_reduce_the_accuracy_of_gradients(name: str) -> None:
    x, params = audio(2, 20001, torch.float32), parameters(name, 1)
    actual, expected = (output_and_gradients(ours, name, x.to(t), params) for t in (torch.float32, torch.float64))
    assert_all_close(actual, expected, 1e-6)


@pytest.mark.parametrize("name", KERNELS)
def test_one_gradient_alone_equals_the_same_gradient_among_all(name: str) -> None:
    x, params = audio(2, PAST_A_BLOCK), parameters(name, 2)
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
    x = audio(2, PAST_A_BLOCK).requires_grad_()
    leaves = {key: value.requires_grad_() for key, value in parameters(name, 2).items()}
    loss = apply(ours, name, x, leaves).square().sum()
    first, second = (torch.autograd.grad(loss, (x, *leaves.values()), retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("samples", [1, 2, 5, 30000])
def test_biquads_equal_scipy(samples: int) -> None:
    x, coefs = audio(3, samples), sections(3, 6)
    y = biquad_cascade(x, coefs)
    for r in range(3):
        sos = np.insert(coefs[r].numpy(), 3, 1.0, axis=1)
        assert relative_rms(y[r], sosfilt(sos, x[r].numpy())) <= 1e-9


@pytest.mark.parametrize("samples", [1, 2, 3, PAST_A_BLOCK])
def test_the_state_of_biquads_is_that_of_scipy(samples: int) -> None:
    x, coefs = audio(1, samples), sections(1, 2)
    state = torch.randn(1, 2, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected, end = sosfilt(np.insert(coefs[0].numpy(), 3, 1.0, axis=1), x[0].numpy(), zi=state[0].numpy())
    assert relative_rms(biquad_cascade(x, coefs, state)[0], expected) <= 1e-9
    assert relative_rms(state[0], end) <= 1e-9


@pytest.mark.parametrize("module", [ours, reference], ids=("compiled", "reference"))
@pytest.mark.parametrize("name", KERNELS)
def test_blocks_of_any_length_equal_one_call(name: str, module: object) -> None:
    x, params = audio(2, 1300), {k: v.requires_grad_() for k, v in parameters(name, 1).items()}
    state = FRESH[name].clone()
    blocks = [apply(module, name, block, params, state) for block in x.split([1, 2, 64, 533, 700], dim=1)]
    y = torch.cat(blocks, dim=1)
    assert not y.requires_grad
    assert relative_rms(y, apply(ours, name, x, params)) <= 1e-9


@pytest.mark.parametrize("name", KERNELS)
def test_no_samples_give_no_samples_and_leave_the_state(name: str) -> None:
    state = FRESH[name].clone()
    assert apply(ours, name, torch.zeros(2, 0), parameters(name, 1), state).shape == (2, 0)
    assert torch.equal(state, FRESH[name])


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_silence_and_full_scale_have_finite_outputs_and_gradients(name: str, dtype: torch.dtype) -> None:
    square = torch.ones(5000)
    square[::2] = -1.0
    burst = torch.zeros(5000)
    burst[:10] = 1.0
    x = torch.stack([torch.zeros(5000), torch.ones(5000), square, burst]).to(dtype)
    for key, value in output_and_gradients(ours, name, x, parameters(name, 1)).items():
        assert value.isfinite().all(), key


@pytest.mark.parametrize("name", KERNELS)
def test_not_a_number_spreads_to_the_end_of_its_row_alone(name: str) -> None:
    x = audio(2, 3 * PAST_A_BLOCK)
    x[1, 10] = torch.nan
    y = apply(ours, name, x, parameters(name, 1))
    assert y[0].isfinite().all() and y[1, :10].isfinite().all()
    assert y[1, 10:].isnan().all()


def test_the_level_floor_passes_no_gradient() -> None:
    x = torch.tensor([[0.5, 0.9e-4, 0.0, -0.9e-4, -1.1e-4, 0.2]], dtype=torch.float64).requires_grad_()
    compressor_gain(x, *parameters("compressor_gain", 1).values()).sum().backward()
    assert (x.grad != 0).tolist() == [[True, False, False, False, True, True]]


def test_strided_rows_give_the_same() -> None:
    x, params = audio(4, 700), parameters("one_pole", 1)
    assert torch.equal(one_pole(x[::2], **params), one_pole(x[::2].contiguous(), **params))
    strided = x.repeat_interleave(2, dim=1)[:, ::2]
    assert torch.equal(one_pole(strided, **params), one_pole(x, **params))


def test_vector_loops_compute_logarithm_and_power_of_two_to_the_last_digits() -> None:
    scratch = np.empty(512)
    x = 10.0 ** np.random.default_rng(0).uniform(-12, 2, 512)
    v = x.copy()
    recursion_loops._log2(v, scratch, 512)
    np.testing.assert_allclose(v, np.log2(x), rtol=1e-15, atol=1e-15)
    t = -np.random.default_rng(1).uniform(0, 900, 512)
    v = t.copy()
    recursion_loops._exp2(v, scratch, 512)
    np.testing.assert_allclose(v, np.exp2(t), rtol=1e-15)
    v = np.array([0.0, -1.0, -5000.0])
    recursion_loops._exp2(v, scratch, 3)
    assert v.tolist() == [1.0, 0.5, 2.0**-1022]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: one_pole(torch.zeros(5), torch.ones(1)), "x is .5,. torch.float32; give .rows, samples."),
        (lambda: one_pole(torch.zeros(2, 5).int(), torch.ones(1)), "x is .2, 5. torch.int32"),
        (lambda: one_pole(torch.zeros(2, 5), torch.ones(3)), "coef has 3 rows beside 2 rows of audio; give 2 or 1"),
        (lambda: ballistics(torch.zeros(2, 5), torch.ones(1), torch.tensor(1.0), 1.0), "release has shape .."),
        (lambda: biquad_cascade(torch.zeros(2, 5), torch.ones(1, 6)), "coefs has shape .1, 6.; give .rows or 1, sec"),
        (lambda: one_pole(torch.zeros(2, 5), torch.ones(1), torch.zeros(2)), "state is .2,. torch.float32; give .2,."),
    ],
)
def test_errors_say_what_was_given_and_what_is_allowed(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
