"""What every effect brings beside its sound: a streaming stage, an off position, curves, a label, a real-time form."""

import numpy as np
import pytest
import torch
from measures import relative_rms
from test_effects import INSTANCES, audio, make, random, random_raws, values_of
from torch import Tensor

from reknob.afx.chain import Normalised
from reknob.afx.effect import Effect, Knobs, Values
from reknob.afx.registry import EFFECTS, KEYS, build
from reknob.afx.stream import Stream

SR = 44100
# Effects that need the whole sound at once, and say so.
WHOLE = {"noise_reverb"}
# What combines effects is level-dependent by what it holds, and is not asked.
COMBINING = {"serial", "parallel", "sends"}
# Filters that have no values to switch them off, and chains that hold such.
NEVER_OFF = {"low_pass", "high_pass", "serial"}
every_effect = pytest.mark.parametrize("name", INSTANCES)


def opened(name: str) -> tuple[Effect, Values]:
    effect = make(name).eval()
    with torch.no_grad():
        return effect, values_of(effect, random_raws(effect, (), random()))


@every_effect
@pytest.mark.parametrize("sizes", [[1500], [0, 700, 800], [1, 1, 1, 497, 0, 1000], [3] * 40 + [1380]], ids=len)
def test_any_split_into_blocks_equals_the_whole(name: str, sizes: list[int]) -> None:
    effect, values = opened(name)
    x = audio(name, 1, random(), torch.float64)[0]
    x = x.repeat(1, -(-1500 // x.shape[-1]))[:, :1500]
    running = Stream(effect, values)
    y = torch.cat([*(running.process(block) for block in x.split(sizes, -1)), running.flush()], -1)
    with torch.no_grad():
        assert relative_rms(y, effect(x[None], **values)[0]) < 1e-6


@pytest.mark.parametrize("name", [name for name in INSTANCES if name not in WHOLE])
def test_what_a_stage_holds_back_is_bounded(name: str) -> None:
    effect, values = opened(name)
    x = audio(name, 1, random(), torch.float64)[0]
    running, given, ready = Stream(effect, values), 0, 0
    for _ in range(6):
        given += x.shape[-1]
        ready += running.process(x).shape[-1]
        # A lookahead of 15 ms and its filter's reach.
        assert given - ready <= round(0.017 * SR)


@every_effect
def test_off_leaves_the_input_or_adds_nothing(name: str) -> None:
    effect, values = opened(name)
    if name in NEVER_OFF:
        with pytest.raises(ValueError, match="has no values that switch it off: leave it out of the chain"):
            effect.off(values)
        return
    x = 0.1 * audio(name, 1, random(), torch.float64)
    with torch.no_grad():
        y = effect(x, **effect.off(values))
    expected = torch.zeros_like(y) if effect.family else x.expand_as(y)
    assert (y - expected).abs().max() < 1e-6


@pytest.mark.parametrize("word", ["compfull", "comp", "compsimple", "taylor", "chebyshev", "dist", "peq", "geq"])
def test_effects_of_blind_estimation_are_switched_off_too(word: str) -> None:
    effect = KEYS[word].analysis(SR).eval()
    values = effect.from_unit(torch.rand(1, len(effect.controls()), generator=random()))
    x = torch.rand(1, 1, 3000, generator=random()) - 0.5
    x = (x - x.mean()) / (x - x.mean()).abs().max()
    with torch.no_grad():
        error = (effect(x, **effect.off(values)) - x).abs().max()
    # The proxy is a network: of no reduction it makes some thousandths of a dB.
    assert error < (1e-3 if word == "compfull" else 1e-5)


@every_effect
def test_curves_are_finite_and_named(name: str) -> None:
    effect, values = opened(name)
    for curve in effect.curves(values):
        assert curve.title and curve.x_label and curve.y_label
        assert len(curve.x) == len(curve.y)
        assert np.isfinite(curve.y[curve.x < effect.sr / 2]).all()


def test_every_effect_of_the_registry_has_a_label() -> None:
    assert {key for key, kind in EFFECTS.items() if kind.label is None} == {"serial"}


def test_a_realtime_form_runs_by_sample() -> None:
    for key in ("ping_pong_delay", "fdn"):
        assert not build({"effect": key}, SR).runs_by_sample
        assert build({"effect": key, **EFFECTS[key].realtime_options}, SR).runs_by_sample


def test_an_effect_without_a_stage_says_so() -> None:
    class Bare(Effect):
        def forward(self, x: Tensor) -> Tensor:
            return x

    with pytest.raises(TypeError, match="Bare cannot be streamed: implement `stage`"):
        Stream(Bare(SR), {})


def test_normalised_chains_take_the_whole_sound() -> None:
    chain = Normalised(SR, comp=KEYS["comp"].analysis(SR)).eval()
    running = Stream(chain, Knobs(chain).requires_grad_(False)())
    assert running.process(torch.ones(1, 500)).shape == (1, 0)
    assert running.flush().shape == (1, 500)


def sibilant(level_db: float) -> tuple[Tensor, Tensor]:
    """A vowel-like sine at 300 Hz, and a burst at 6.5 kHz of a level in dB."""
    t = torch.arange(SR // 2, dtype=torch.float64) / SR
    burst = 10 ** (level_db / 20) * 2**0.5 * torch.sin(2 * torch.pi * 6500 * t) * (t > 0.25)
    return 0.3 * torch.sin(2 * torch.pi * 300 * t)[None, None], burst[None, None]


def test_a_de_esser_turns_sibilants_down_by_its_ratio_and_leaves_the_rest() -> None:
    effect = build({"effect": "de_esser", "threshold": {"default": -30.0}, "ratio": {"default": 3.0}}, SR).eval()
    values = Knobs(effect).requires_grad_(False)()
    vowel, burst = sibilant(-15.0)
    y = effect(vowel + burst, **values) - vowel
    end = slice(-SR // 10, None)
    change = 20 * torch.log10(y[..., end].square().mean().sqrt() / burst[..., end].square().mean().sqrt())
    # 15 dB above the threshold at 3 : 1 are 10 dB less.
    assert change.item() == pytest.approx(-10, abs=0.5)
    assert relative_rms(effect(vowel, **values), vowel) < 1e-6


def test_a_de_esser_curve_is_that_of_its_values() -> None:
    effect = build({"effect": "de_esser"}, SR)
    (curve,) = effect.curves(Knobs(effect).requires_grad_(False)())
    assert np.interp([-60, -30, -10], curve.x, curve.y) == pytest.approx([0, 0, -20 * 0.75])


def test_a_limiter_turns_peaks_down_to_its_threshold_and_leaves_the_rest() -> None:
    values = {"threshold": {"default": -12.0}, "attack": {"default": 0.06}, "release": {"default": 20.0}}
    effect = build({"effect": "limiter"} | values, SR).eval()
    t = torch.arange(SR, dtype=torch.float64) / SR
    x = 10 ** (-14 / 20) * torch.sin(2 * torch.pi * 200 * t)[None, None]
    x[..., SR // 4 : SR // 2] *= 4  # to 10 dB above the threshold
    x = torch.cat([x, x / 2], 1)
    y = effect(x, **Knobs(effect).requires_grad_(False)())
    assert torch.equal(y[..., : SR // 4], x[..., : SR // 4])
    loud = 20 * torch.log10(y[0, 0, SR // 2 - SR // 10 : SR // 2].abs().max())
    assert loud.item() == pytest.approx(-12, abs=0.3)
    assert torch.allclose(y[0, 1], y[0, 0] / 2), "one gain for all channels"
    assert relative_rms(y[0, 0, -SR // 8 :], x[0, 0, -SR // 8 :]) < 1e-3, "released"


@pytest.mark.parametrize("name", [name for name in INSTANCES if name not in COMBINING])
def test_an_effect_that_is_not_linear_says_that_it_depends_on_the_level(name: str) -> None:
    effect, values = opened(name)
    x = audio(name, 1, random(), torch.float64)
    with torch.no_grad():
        twice, doubled = effect(2 * x, **values), 2 * effect(x, **values)
    assert effect.level_dependent == (relative_rms(twice, doubled) > 1e-6)
