"""Equaliser, compressor and direct position by least squares, beside whatever echo and reverb there are."""

import pytest
import torch
from scipy import linalg
from takes import SR as TAKE_SR
from takes import take
from torch import Tensor
from torch.func import functional_call

from reknob.afx.effect import Effect, Knobs, Values, flatten
from reknob.afx.registry import build
from reknob.afx.stream import render
from reknob.data.audio import normalise_loudness, resample
from reknob.data.chunks import Chunks
from reknob.fitting.direct_sound import find_direct_sound
from reknob.fitting.initialise import raws_from
from reknob.fitting.response import least_squares

SR = 16000
EFFECTS = {
    "peak1": {"effect": "peak", "freq": {"default": 800, "range": [33, 5400]}},
    "comp": {"effect": "compressor_expander"},
}
SENDS = {
    "sends": {
        "effect": "sends",
        "delay": {"effect": "ping_pong_delay", "ir_duration": 2},
        "reverb": {"effect": "fdn", "ir_duration": 1, "bands": 9, "delays": [361, 419, 481, 563, 653, 761]},
    }
}
TRUTH = {"peak1.gain": 6.0, "peak1.freq": 1200.0, "comp.cmp_threshold": -24.0, "comp.cmp_ratio": 4.0}
ECHO = {"sends.delay.delay": 233.0, "sends.delay.gain": 0.4, "sends.direct.pan": 0.35}


@pytest.fixture(scope="module")
def dry() -> Tensor:
    """Noise that comes and goes, with phrases of different levels."""
    x = resample(take(4.0), TAKE_SR, SR)
    return normalise_loudness(x * torch.logspace(-1, 0, 4).repeat_interleave(SR), SR, -18.0)


@torch.no_grad()
def values_of(chain: Effect, raws: dict[str, Tensor]) -> Values:
    return functional_call(Knobs(chain), raws, ())


def found(chain: Effect, truth: dict[str, float], dry: Tensor) -> dict[str, float]:
    """Scalar values found from the defaults, for a mix of some values."""
    made = raws_from(chain, {name: torch.tensor(value) for name, value in truth.items()}, seed=7)
    defaults = raws_from(chain, {}, seed=7)
    with torch.no_grad():
        wet = render(chain, values_of(chain, made), dry)[:, : dry.shape[-1]]
    raws = defaults | find_direct_sound(chain, Chunks(dry[None], wet[None], SR // 2, (0,)), defaults)
    return {name: value.item() for name, value in flatten(values_of(chain, raws)).items() if value.dim() == 0}


@pytest.mark.parametrize("sends", [{}, SENDS], ids=["no sends", "sends"])
def test_equaliser_and_compressor_are_found_beside_an_unknown_echo(sends: dict, dry: Tensor) -> None:
    chain = build({**EFFECTS, **sends}, SR).eval()
    truth = TRUTH | (ECHO if sends else {})
    values = found(chain, truth, dry)
    assert values["peak1.gain"] == pytest.approx(6.0, abs=0.2)
    assert values["peak1.freq"] == pytest.approx(1200, rel=0.02)
    assert values["comp.cmp_threshold"] == pytest.approx(-24, abs=0.5)
    assert values["comp.cmp_ratio"] == pytest.approx(4, rel=0.05)
    if sends:
        assert values["sends.direct.pan"] == pytest.approx(0.35, abs=0.01)
        # Of the sends the direct position alone is moved.
        assert values["sends.delay.delay"] == pytest.approx(400)


def test_a_chain_that_is_one_effect_has_no_direct_sound(dry: Tensor) -> None:
    single = dict(build(EFFECTS, SR).parts())["peak1"]
    assert find_direct_sound(single, Chunks(dry[None], dry.expand(1, 2, -1), 0, (0,)), raws_from(single, {}, 0)) == {}


def test_a_response_that_begins_late_is_zero_before() -> None:
    correlation = torch.zeros(50, dtype=torch.float64)
    correlation[:3] = torch.tensor([1.0, 0.4, 0.1])
    metric = torch.from_numpy(linalg.toeplitz(correlation.numpy()))
    cross = torch.randn(2, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    h = least_squares(correlation, cross, 60, first=10)
    torch.testing.assert_close(h[:, 10:], torch.linalg.solve(metric[10:, 10:], cross[:, 10:].T).T)
    assert not h[:, :10].any()


def test_a_slow_release_is_found_from_a_fast_one(dry: Tensor) -> None:
    levels = torch.tensor([0.3, 1, 0.2, 1, 0.4, 0.8, 0.2, 1]).repeat_interleave(SR // 2)
    x = normalise_loudness(dry / torch.logspace(-1, 0, 4).repeat_interleave(SR) * levels, SR, -18.0)
    truth = {"cmp_threshold": -24.0, "cmp_ratio": 8.0, "release": 60_000.0, "attack": 5.0, "avg_coef": 0.9}
    values = found(build(EFFECTS, SR).eval(), {f"comp.{name}": value for name, value in truth.items()}, x)
    assert values["comp.release"] > 10_000
    assert values["comp.cmp_threshold"] == pytest.approx(-24, abs=4)
