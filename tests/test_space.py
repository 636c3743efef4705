"""Delay and reverb from the response of the recordings: the estimate, the decay, truncated responses, the search."""

import numpy as np
import pytest
import torch
from scipy import signal
from takes import SR as TAKE_SR
from takes import take
from torch import Tensor
from torch.func import functional_call

from reknob.afx.effect import Effect, Knobs, Values, flatten
from reknob.afx.param import Orthogonal
from reknob.afx.registry import build
from reknob.afx.stream import render
from reknob.data.audio import normalise_loudness, resample
from reknob.data.chunks import Chunks
from reknob.fitting.free_network import balanced
from reknob.fitting.initialise import raws_from, to_raws
from reknob.fitting.response import ResponseEstimate, decay_times
from reknob.fitting.space import find_space

SR = 16000
CHAIN = {
    "peak1": {"effect": "peak", "freq": {"default": 800, "range": [33, 5400]}},
    "sends": {
        "effect": "sends",
        "delay": {"effect": "ping_pong_delay", "ir_duration": 3},
        "reverb": {"effect": "fdn", "ir_duration": 3, "bands": 9, "delays": [361, 419, 481, 563, 653, 761]},
    },
}
ECHO = {"delay": 233.0, "feedback": 0.4, "gain": 0.3}


@pytest.fixture(scope="module")
def dry() -> Tensor:
    return normalise_loudness(resample(take(6.0), TAKE_SR, SR), SR, -18.0)


@pytest.fixture(scope="module")
def chain() -> Effect:
    return build(CHAIN, SR).eval()


@pytest.fixture(scope="module")
def raws(chain: Effect) -> dict[str, Tensor]:
    """A chain with an audible echo, and a reverb of 0.9 s."""
    values = {f"sends.delay.{name}": torch.tensor(value) for name, value in ECHO.items()}
    generator = torch.Generator().manual_seed(5)
    values["sends.reverb.b"] = 0.5 * torch.randn(6, 2, generator=generator)
    values["sends.reverb.c"] = 0.15 * torch.randn(2, 6, generator=generator)
    values["sends.reverb.gamma"] = torch.full((9, 1), 10 ** (-3 * 361 / SR / 0.9))
    return raws_from(chain, values, seed=7)


@torch.no_grad()
def values_of(chain: Effect, raws: dict[str, Tensor]) -> Values:
    return functional_call(Knobs(chain), raws, ())


def test_a_truncated_response_is_the_beginning_of_the_response(chain: Effect, raws: dict[str, Tensor]) -> None:
    values = values_of(chain, raws)["sends"]
    whole = chain.sends.response(**values)
    for samples in (1440, 16000):
        short = chain.sends.shortened(samples).response(**values)
        assert short.shape[-1] == samples
        assert ("delay" in dict(chain.sends.shortened(samples).parts())) == (samples > 0.1 * SR)
        error = (short - whole[..., :samples]).square().sum() / whole.square().sum()
        assert error.sqrt() < 1e-3, (samples, error)
    assert chain.sends.response(**values).shape == whole.shape


def test_least_squares_finds_a_response(dry: Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(2, 1600, generator=generator) * torch.logspace(0, -3, 1600)
    wet = torch.from_numpy(signal.fftconvolve(dry.numpy(), h.numpy(), axes=-1))[:, : dry.shape[-1]].float()
    estimate = ResponseEstimate(dry[None], wet[None], SR, 2000)
    assert estimate.explained > 0.98
    distance = estimate.distance(1600)
    # Where the recording has nothing, no method can know the response: the distance counts what would be heard.
    assert distance(h) < 0.05
    assert distance(torch.zeros_like(h)) > 0.9
    assert distance(torch.stack([h, -h])).shape == (2,)
    assert distance(-h) > 2


def test_the_decay_of_noise_is_read_by_octave() -> None:
    generator = torch.Generator().manual_seed(0)
    t = torch.arange(SR * 3 // 2) / SR
    h = torch.randn(2, len(t), generator=generator) * 10 ** (-3 * t / 0.6)
    h += 1e-3 * torch.randn(2, len(t), generator=generator)
    h[:, SR // 4] += 8  # an echo, which a median of slopes leaves out
    frequencies, times = decay_times(h, SR)
    assert frequencies.max() < 0.45 * SR
    assert times == pytest.approx(0.6, rel=0.12)
    assert len(decay_times(torch.zeros(2, SR), SR)[0]) == 0


def test_a_matrix_in_other_units_is_the_rotation_it_was_made_from() -> None:
    generator = torch.Generator().manual_seed(3)
    rotation = Orthogonal().value(torch.randn(6, 6, generator=generator).double())
    units = (0.5 * torch.randn(6, generator=generator).double()).exp()
    units /= units.log().mean().exp()
    found, found_units, factor = balanced(0.8 * rotation * units / units[:, None])
    torch.testing.assert_close(found, rotation, rtol=0, atol=1e-6)
    torch.testing.assert_close(found_units, units, rtol=1e-6, atol=0)
    assert factor == pytest.approx(0.8)
    # Of a matrix that says nothing, still a rotation.
    for matrix in (torch.zeros(6, 6), torch.eye(6), torch.ones(6, 6)):
        found, _, _ = balanced(matrix)
        torch.testing.assert_close(found @ found.T, torch.eye(6).double(), rtol=0, atol=1e-6)
        assert torch.linalg.det(found) == pytest.approx(1)


# 466 ms is twice the true time: every second echo.
@pytest.mark.parametrize(("echo", "candidates"), [(ECHO, (400.0, 232.95)), (ECHO | {"gain": 0.05}, (466.05,))])
@pytest.mark.usefixtures("brief_search")
def test_the_search_finds_echo_and_reverb(
    chain: Effect, raws: dict[str, Tensor], dry: Tensor, echo: dict[str, float], candidates: tuple[float, ...]
) -> None:
    true_echo = {f"sends.delay.{name}": torch.tensor(value) for name, value in echo.items()}
    truth = values_of(chain, raws | to_raws(chain, true_echo))
    with torch.no_grad():
        wet = render(chain, truth, dry)[:, : dry.shape[-1]]
    chunks = Chunks(dry[None], wet[None], 0, (0,))
    defaults = raws_from(chain, {})
    begin = {"sends.delay.feedback": torch.tensor(0.3), "sends.delay.gain": torch.tensor(0.2)}
    echoes = [to_raws(chain, begin | {"sends.delay.delay": torch.tensor(ms)}) for ms in candidates]
    found = defaults | find_space(chain, chunks, defaults, echoes)
    values = {name: value.detach() for name, value in flatten(values_of(chain, found)).items()}
    for name, error in (("delay", 0.01), ("gain", 0.01), ("feedback", 0.03)):
        assert values[f"sends.delay.{name}"].item() == pytest.approx(echo[name], abs=error), name
    estimate = ResponseEstimate(dry[None], wet[None], SR, SR)
    response = chain.sends.response(**values_of(chain, found)["sends"])[:, 0]
    assert estimate.distance(SR)(response[:, :SR]) < 0.01
    curves = [
        chain.sends.reverb.curves({"gamma": flatten(v)["sends.reverb.gamma"]})[0]
        for v in (truth, values_of(chain, found))
    ]
    middle = (curves[0].x > 250) & (curves[0].x < 4000)
    assert np.median(curves[1].y[middle] / curves[0].y[middle]) == pytest.approx(1, abs=0.2)


@pytest.mark.usefixtures("brief_search")
def test_a_reverb_that_is_no_network_is_not_found(chain: Effect, raws: dict[str, Tensor], dry: Tensor) -> None:
    t = torch.arange(SR // 2) / SR
    h = torch.randn(2, len(t), generator=torch.Generator().manual_seed(0)) * 10 ** (-3 * t / 0.5)
    wet = torch.from_numpy(signal.fftconvolve(dry.numpy(), h.numpy(), axes=-1))[:, : dry.shape[-1]].float()
    assert find_space(chain, Chunks(dry[None], dry + 0.1 * wet[None], 0, (0,)), raws, []) == {}


def test_a_chain_without_delay_and_reverb_has_no_space(dry: Tensor) -> None:
    wet = dry.expand(2, -1)[None]
    for config in ({"peak1": CHAIN["peak1"]}, {"sends": {"effect": "sends"}}):
        chain = build(config, SR)
        assert find_space(chain, Chunks(dry[None], wet, 0, (0,)), raws_from(chain, {}), []) == {}


@pytest.mark.usefixtures("brief_search")
def test_silence_has_a_space_of_finite_values(chain: Effect, raws: dict[str, Tensor]) -> None:
    found = find_space(chain, Chunks(torch.zeros(1, 1, SR), torch.zeros(1, 2, SR), 0, (0,)), raws, [])
    assert found and all(raw.isfinite().all() for raw in found.values())
