"""The real-time forms equal their definitions and the published release, for any split into blocks."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from measures import relative_rms
from scipy.signal import firwin2, sosfilt
from torch import Tensor

from reknob.afx.functional import biquad
from reknob.afx.functional.fdn import decay_fir
from reknob.afx.kernels.numba_cpu import realtime as compiled
from reknob.afx.kernels.realtime import DelayState, FdnState, realtime_delay, realtime_fdn
from reknob.afx.kernels.reference import realtime as reference

GOLDEN = Path(__file__).parent / "golden" / "diffvox"
SR = 44100
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}
BLOCKS = (1, 61, 256, 1000)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elements that the kernels do not write are NaN."""

    def poison(shape: tuple[int, ...], dtype: type) -> np.ndarray:
        return np.full(shape, np.nan, dtype)

    monkeypatch.setattr(compiled, "empty", poison)


def echo_inputs(dtype: torch.dtype) -> list[Tensor]:
    """Three rows of noise with a delay and a feedback each, and one low-pass for all."""
    x = torch.randn(3, 701, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    low_pass = biquad.low_pass(torch.tensor(6000.0), torch.tensor(1.5), SR).unsqueeze(0)
    return [x, torch.tensor([100, 37, 1]), torch.tensor([0.5, 0.9, -0.3], dtype=torch.float64), low_pass]


def network_inputs(lines: int, taps: int, dtype: torch.dtype) -> list[Tensor]:
    """Two rows of stereo noise through networks with short lines; b is shared."""
    rng = torch.Generator().manual_seed(lines)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    delays = torch.randint(taps // 2 + 1, taps + 60, (2, lines), generator=rng)
    feedback, fir = torch.linalg.qr(draw(2, lines, lines))[0], draw(2, lines, taps) / (2 * taps)
    return [draw(2, 2, 701).to(dtype), feedback, draw(1, lines, 2), draw(2, 3, lines), delays, fir]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_delay_equals_the_reference(dtype: torch.dtype) -> None:
    inputs = echo_inputs(dtype)
    y = realtime_delay(*inputs)
    assert y.dtype == dtype
    assert relative_rms(y, reference.realtime_delay(*inputs)) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("lines, taps", [(1, 97), (2, 1), (6, 97), (7, 9)])
def test_network_equals_the_reference(lines: int, taps: int, dtype: torch.dtype) -> None:
    inputs = network_inputs(lines, taps, dtype)
    y = realtime_fdn(*inputs)
    assert y.dtype == dtype
    assert relative_rms(y, reference.realtime_fdn(*inputs)) < TOLERANCE[dtype]


@pytest.mark.parametrize("block", BLOCKS)
def test_delay_gives_the_same_samples_for_blocks_of_any_size(block: int) -> None:
    x, delay, *rest = echo_inputs(torch.float32)
    state = DelayState.fresh(len(x), delay)
    blocks = [realtime_delay(part, delay, *rest, state) for part in x.split(block, -1)]
    assert torch.equal(torch.cat(blocks, -1), realtime_delay(x, delay, *rest))


@pytest.mark.parametrize("block", BLOCKS)
def test_network_gives_the_same_samples_for_blocks_of_any_size(block: int) -> None:
    x, *network = network_inputs(6, 97, torch.float32)
    state = FdnState.fresh(len(x), network[3], 97)
    blocks = [realtime_fdn(part, *network, state) for part in x.split(block, -1)]
    assert torch.equal(torch.cat(blocks, -1), realtime_fdn(x, *network))


def test_echo_k_is_filtered_k_minus_1_times() -> None:
    _, _, _, low_pass = echo_inputs(torch.float64)
    x = torch.zeros(1, 1000, dtype=torch.float64)
    x[0, 0] = 1
    odd, even = realtime_delay(x, torch.tensor([300]), torch.tensor([0.5]), low_pass)[0]
    b0, b1, b2, a1, a2 = low_pass[0].tolist()
    once = sosfilt([[b0, b1, b2, 1, a1, a2]], x[0, :300].numpy())
    expected = [x[0, :300].numpy(), 0.5 * once, 0.25 * sosfilt([[b0, b1, b2, 1, a1, a2]], once)]
    assert relative_rms(odd[300:600], expected[0]) < 1e-12 and relative_rms(even[600:900], expected[1]) < 1e-12
    assert relative_rms(odd[900:], expected[2][:100]) < 1e-12
    assert not odd[:300].any() and not even[:600].any()


def test_silence_after_sound_leaves_no_denormal_numbers() -> None:
    x, delay, feedback, low_pass = echo_inputs(torch.float64)
    state = DelayState.fresh(len(x), delay)
    realtime_delay(x, delay, 0.1 * feedback, low_pass, state)
    realtime_delay(torch.zeros(3, 40000, dtype=torch.float64), delay, 0.1 * feedback, low_pass, state)
    assert not state.lines.any()


def test_delay_equals_the_published_release() -> None:
    golden = np.load(GOLDEN / "RealTimeDelay.npz")
    x = torch.from_numpy(np.load(GOLDEN / "inputs.npz")["x1"][0])
    value = {key[4:]: torch.from_numpy(golden[key]) for key in golden if key.startswith("val/")}
    delay = (value["params.delay"] * SR / 1000).round().long()
    low_pass = biquad.low_pass(value["eq.params.freq"], value["eq.params.Q"], SR)
    odd, even = realtime_delay(x, delay[None], value["params.feedback"][None], low_pass[None])[0].double()
    y = sum(
        math.sqrt(2) * torch.stack([torch.cos(angle), torch.sin(angle)]).unsqueeze(1) * echoes
        for angle, echoes in (
            (value["odd_pan.params.pan"] * math.pi / 2, odd),
            (value["even_pan.params.pan"] * math.pi / 2, even),
        )
    )
    assert relative_rms(value["params.gain"] * y, golden["out_f32"][0]) < 1e-6


def test_network_equals_the_published_release() -> None:
    golden = np.load(GOLDEN / "RealTimeFDN.npz")
    x = torch.from_numpy(np.load(GOLDEN / "inputs.npz")["x2"])
    value = {key[11:]: torch.from_numpy(golden[key]) for key in golden if key.startswith("val/params.")}
    delays = torch.from_numpy(golden["const/delays"])
    fir = decay_fir(value["gamma"], delays, shared=True)
    y = realtime_fdn(x, *(value[k][None] for k in ("U", "b", "c")), delays[None], fir[None])
    assert relative_rms(sosfilt(published_eq(golden), y[0].numpy()), golden["out_f32"][0]) < 5e-5


def published_eq(golden: dict[str, np.ndarray]) -> np.ndarray:
    """Sections in the float32 arithmetic of the release: near DC its coefficients alone move the output by 2e-4."""
    f32 = np.float32
    sections = []
    for k, form in enumerate(("peak", "peak", "low", "high")):
        freq, gain = (f32(golden[f"val/eq.{k}.params.{name}"]) for name in ("freq", "gain"))
        Q = f32(golden[f"val/eq.{k}.params.Q"] if form == "peak" else golden[f"const/eq.{k}.Q"])
        omega, A = f32(2 * math.pi) * freq / f32(SR), f32(10) ** (gain / f32(40))
        cos, alpha = np.cos(omega), np.sin(omega) / (2 * Q)
        if form == "peak":
            section = [1 + alpha * A, -2 * cos, 1 - alpha * A, 1 + alpha / A, -2 * cos, 1 - alpha / A]
        else:
            side = 1 if form == "low" else -1
            cos, more, less, root = side * cos, A + 1, A - 1, 2 * np.sqrt(A) * alpha
            section = [
                *(A * (more - less * cos + root), side * 2 * A * (less - more * cos), A * (more - less * cos - root)),
                *(more + less * cos + root, side * -2 * (less + more * cos), more + less * cos - root),
            ]
        sections.append((np.array(section, f32) / f32(section[3])).astype(np.float64))
    return np.array(sections)


@pytest.mark.parametrize("bands", [2, 5, 49])
def test_decay_filters_are_a_frequency_sampling_design(bands: int) -> None:
    gamma = torch.rand(bands, 1, generator=torch.Generator().manual_seed(bands), dtype=torch.float64)
    delays = torch.tensor([997, 1153, 2099])
    gains = gamma.T ** (delays / 997).unsqueeze(1)
    expected = [firwin2(2 * bands - 1, np.linspace(0, 1, bands), row) for row in gains.numpy()]
    # Ratios of integer delays are float32.
    assert relative_rms(decay_fir(gamma, delays, shared=True), np.array(expected)) < 1e-6


def test_decay_filters_of_one_band_are_plain_gains() -> None:
    gamma = torch.tensor([[0.5, 0.7]], dtype=torch.float64)
    assert torch.allclose(decay_fir(gamma, torch.tensor([7, 11]), shared=False), gamma.T)


def test_a_batch_of_decay_curves_equals_its_items() -> None:
    gamma = torch.rand(3, 9, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    delays = torch.tensor([7, 11])
    items = torch.stack([decay_fir(g, delays, shared=True) for g in gamma])
    assert torch.equal(decay_fir(gamma, delays, shared=True), items)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"delay": torch.tensor([1.5])}, r"delay are \[1.5\] .*; give whole samples, at least 1"),
        ({"delay": torch.tensor([0])}, r"at least 1"),
        ({"coefs": torch.ones(2, 5)}, r"coefs has shape \(2, 5\); give \(3 or 1, 5\)"),
        ({"state": DelayState.fresh(3, torch.tensor([99]))}, r"\(3, 2, 99\); make a fresh one for \(3, 2, 100\)"),
    ],
)
def test_delay_names_what_is_wrong(changes: dict, message: str) -> None:
    inputs = dict(zip(("x", "delay", "feedback", "coefs"), echo_inputs(torch.float32), strict=True))
    with pytest.raises(ValueError, match=message):
        realtime_delay(**inputs | changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"delays": torch.tensor([[48, 60, 60]])}, r"give whole samples, at least 49"),
        ({"decay_fir": torch.ones(1, 3, 96)}, r"decay_fir has shape \(1, 3, 96\); give \(2 or 1, 3, 97\)"),
        ({"x": torch.ones(2, 3, 10)}, r"b has shape \(1, 3, 2\); give \(2 or 1, 3, 3\)"),
        ({"x": torch.ones(2, 10)}, r"give \(rows, inputs, samples\)"),
    ],
)
def test_network_names_what_is_wrong(changes: dict, message: str) -> None:
    names = ("x", "feedback", "b", "c", "delays", "decay_fir")
    inputs = dict(zip(names, network_inputs(3, 97, torch.float32), strict=True))
    with pytest.raises(ValueError, match=message):
        realtime_fdn(**inputs | changes)
