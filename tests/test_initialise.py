"""Starts from the signals: what deconvolution shows of an echo and of positions, and the best of several starts."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import signal
from takes import SR as TAKE_SR
from takes import mixed, take
from torch import Tensor

from reknob.afx.effect import Effect, Values
from reknob.afx.registry import build
from reknob.afx.stereo import pan_gains
from reknob.afx.stream import render
from reknob.data.audio import normalise_loudness, resample
from reknob.data.chunks import Chunks
from reknob.data.doctor import PairCheck
from reknob.data.pairs import Pair
from reknob.fitting import initialise
from reknob.fitting.fit import Fit
from reknob.fitting.recipe import Recipe
from reknob.fitting.restarts import best_start
from reknob.fitting.settings import FitSettings
from reknob.fitting.track import TrackState
from reknob.losses import VocalLoss
from reknob.runtime.errors import UsageError

SR = 16000
CHAIN = {
    "peak1": {"effect": "peak", "freq": {"default": 800, "range": [33, 5400]}},
    "high_shelf": {"effect": "high_shelf", "freq": {"default": 4000, "range": [750, 7000]}},
    "comp": {"effect": "compressor_expander"},
    "sends": {
        "effect": "sends",
        "delay": {
            "effect": "ping_pong_delay",
            "ir_duration": 3,
            "eq": {"effect": "low_pass", "freq": {"default": 4000, "range": [200, 7000]}},
        },
        "reverb": {"effect": "fdn", "ir_duration": 2, "delays": [361, 419, 481, 563, 653, 761]},
    },
}


@pytest.fixture(scope="module")
def dry() -> Tensor:
    x = resample(take(8.0), TAKE_SR, SR)
    return normalise_loudness(x, SR, -18.0)


def rendered(chain: Effect, dry: Tensor, **changes: float) -> tuple[Tensor, Values]:
    """Dry through a chain, (2, T), and its values: the defaults but for some."""
    raws = initialise.raws_from(chain, {name: torch.tensor(v, dtype=torch.float64) for name, v in changes.items()})
    track = TrackState(chain, Chunks(dry[None], dry.expand(2, -1)[None], 0, (0,)), raws=raws)
    values = track.best_values(chain)
    with torch.no_grad():
        return render(chain.eval(), values, dry)[:, : dry.shape[-1]], values


def echoing() -> dict[str, float]:
    flat = {"delay": 367.0, "feedback": 0.45, "gain": 0.35, "odd_pan.pan": 0.3, "even_pan.pan": 0.6, "eq.freq": 3000.0}
    return {f"sends.delay.{name}": value for name, value in flat.items()}


def test_a_position_is_the_inverse_of_the_panning_law() -> None:
    for pan in (0.0, 0.2, 0.5, 0.9):
        left, right = pan_gains(torch.tensor(pan)).square().tolist()
        assert initialise.pan_position(left, right) == pytest.approx(pan, abs=1e-3)


def test_deconvolution_finds_a_response_through_a_compressor(dry: Tensor) -> None:
    chain = build(CHAIN, SR)
    wet, _ = rendered(chain, dry, **echoing(), **{"comp.cmp_threshold": -30.0, "comp.cmp_ratio": 4.0})
    h = initialise.deconvolve(dry, wet, SR)
    assert h.shape == (2, round(initialise.RESPONSE_S * SR))
    assert np.argmax((h**2).sum(0)) < 0.001 * SR
    narrow = initialise.deconvolve(dry, wet, SR, (150, 6000))
    assert initialise.echo_times(narrow, SR, 100, 1000, 3)[0] == pytest.approx(367, abs=1)


@pytest.mark.parametrize("delay_ms", [152.0, 480.5, 901.0])
def test_an_echo_is_measured(dry: Tensor, delay_ms: float) -> None:
    wet, _ = rendered(build(CHAIN, SR), dry, **(echoing() | {"sends.delay.delay": delay_ms}))
    (found,) = initialise.echo_times(initialise.deconvolve(dry, wet, SR, (150, 6000)), SR, 100, 1000, 1)
    assert found == pytest.approx(delay_ms, abs=0.6)
    echo = initialise.echo(initialise.deconvolve(dry, wet, SR), SR, found)
    assert echo.gain == pytest.approx(0.35, rel=0.25) and echo.feedback == pytest.approx(0.45, abs=0.12)
    assert echo.odd_pan == pytest.approx(0.3, abs=0.05) and echo.even_pan == pytest.approx(0.6, abs=0.08)
    assert 1200 <= echo.cutoff_hz <= 4800


def test_starts_name_parameters_of_the_chain_within_their_ranges(dry: Tensor) -> None:
    chain = build(CHAIN, SR)
    wet, _ = rendered(chain, dry, **echoing())
    candidates = initialise.starts(chain, dry, wet, 3)
    declared = dict(chain.walk())
    assert len(candidates) == 3
    for values in candidates:
        assert {"sends.direct.pan", "sends.delay.delay"} <= values.keys() <= declared.keys()
        raws = initialise.raws_from(chain, values)
        assert all(raw.isfinite().all() for raw in raws.values())
        assert all(declared[name].mapping.contains(value) for name, value in values.items())
    assert candidates[0]["sends.delay.delay"].item() == pytest.approx(367, abs=1)


def test_a_faint_echo_that_lasts_at_high_frequencies_is_a_candidate() -> None:
    sr, generator = 44100, torch.Generator().manual_seed(0)
    chain = build({"sends": {"effect": "sends", "delay": {"effect": "ping_pong_delay", "ir_duration": 2}}}, sr)
    x = torch.randn(1, 4 * sr, generator=generator) / 10
    wet = x.expand(2, -1).clone()
    high = torch.from_numpy(signal.sosfilt(signal.butter(4, 11000, "high", fs=sr, output="sos"), x.numpy())).float()
    low = torch.from_numpy(signal.sosfilt(signal.butter(4, 3000, "low", fs=sr, output="sos"), x.numpy())).float()
    for n in range(1, 8):
        wet[:, n * 13311 :] += 0.01 * 0.9**n * high[:, : -n * 13311]
    for late in torch.randint(4410, sr, (60,), generator=generator):  # a reverb, whose reflections stand out below
        wet[:, late:] += 0.1 * low[:, :-late]
    times = [each["sends.delay.delay"].item() for each in initialise.starts(chain, x, wet, 3)]
    assert any(ms == pytest.approx(1000 * 13311 / sr, abs=1) for ms in times)


def test_a_chain_without_an_echo_has_one_empty_start(dry: Tensor) -> None:
    chain = build({"comp": {"effect": "compressor_expander"}, "pan": {"effect": "panning"}}, SR)
    assert initialise.starts(chain, dry, dry.expand(2, -1)) == [{}]


@pytest.mark.parametrize("x", [torch.zeros(1, 4 * SR), torch.eye(1, 4 * SR)])
def test_silence_and_a_click_have_finite_starts(x: Tensor) -> None:
    chain = build(CHAIN, SR)
    for values in initialise.starts(chain, x, x.expand(2, -1)):
        assert all(value.isfinite().all() for value in values.values())


def test_the_best_of_several_starts_continues(dry: Tensor) -> None:
    chain = build(CHAIN, SR)
    wet, _ = rendered(chain, dry, **echoing())
    chunks = Chunks(dry[None], wet[None], SR // 2, (0,))
    values = {name: torch.tensor(value) for name, value in echoing().items()}
    right = initialise.raws_from(chain, values)
    wrong = initialise.raws_from(chain, values | {"sends.delay.delay": torch.tensor(250.0)})
    loss = VocalLoss(SR)
    best = best_start(chain, chunks, [wrong, right], lambda tracks: Fit(chain, tracks, loss, lr=0.001, near=True))
    delay = dict(chain.walk())["sends.delay.delay"].mapping
    assert delay.value(best["sends.delay.delay"]).item() == pytest.approx(367, abs=2)
    assert math.isfinite(sum(raw.sum().item() for raw in best.values()))


def test_a_fit_starts_from_the_signals_if_the_settings_say_so_and_a_resumed_one_does_not(
    tmp_path: Path, brief_search: None
) -> None:
    chain = {"sends": {"delay": {"ir_duration": 2}}}
    settings = FitSettings(
        start="signals", restarts=2, model="eq_comp_delay", chain=chain, chunk_duration=2.0, chunk_overlap=0.5
    )
    settings.read_model()
    settings.check()
    recipe = Recipe(settings)
    dry = take(4.0)
    pair = Pair("song", dry, mixed(dry), TAKE_SR, tmp_path, tmp_path, 0, PairCheck())
    delays = [
        recipe.track(pair, resumed=resumed).best_values(recipe.chain)["sends"]["delay"]["delay"].item()
        for resumed in (False, True)
    ]
    assert min(abs(delays[0] - ms) for ms in (170, 300)) < 2 and delays[1] == pytest.approx(400)
    names = [name for name, _ in recipe.chain.walk()]
    rates = dict(zip(names, recipe.fit([recipe.track(pair, resumed=True)]).rates, strict=True))
    assert rates["sends.delay.delay"] < 0.01 * rates["peak1.freq"]


def test_an_unknown_start_is_refused() -> None:
    with pytest.raises(UsageError, match="start=guess: unknown; known: defaults, signals"):
        FitSettings(start="guess").check()
