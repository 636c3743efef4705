"""The start that is read from the recordings: which parameters it keeps, and that it can be stopped."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from reknob.afx.effect import Effect, Knobs
from reknob.afx.registry import build
from reknob.data.chunks import Chunks
from reknob.data.doctor import PairCheck
from reknob.data.pairs import Pair
from reknob.fitting import start
from reknob.fitting.initialise import raws_from, to_raws
from reknob.fitting.recipe import Recipe
from reknob.fitting.settings import FitSettings
from reknob.fitting.start import other_reverbs, plain_reverb
from reknob.fitting.trial import Losses, better_parts
from reknob.losses import VocalLoss
from reknob.runtime.errors import UsageError
from reknob.runtime.interrupt import Interrupted

SR = 22050
CHAIN = {"low": {"effect": "low_shelf"}, "high": {"effect": "high_shelf"}, "pan": {"effect": "panning"}}


def noise(seconds: float) -> Tensor:
    return torch.randn(1, 1, round(seconds * SR), generator=torch.Generator().manual_seed(0)) / 4


def rendered(chain: Effect, raws: dict[str, Tensor], dry: Tensor) -> Tensor:
    with torch.no_grad():
        return chain(dry, **functional_call(Knobs(chain), raws, ()))


def test_each_effect_keeps_the_parameters_of_the_lower_loss() -> None:
    chain, dry = build(CHAIN, SR), noise(2.0)
    right = raws_from(chain, {"low.gain": torch.tensor(6.0), "high.gain": torch.tensor(-6.0)})
    wrong = raws_from(chain, {"low.gain": torch.tensor(-6.0), "high.gain": torch.tensor(6.0)})
    losses = Losses(chain, Chunks(dry, rendered(chain, right, dry), SR // 2, (0,)), VocalLoss(SR), torch.device("cpu"))
    found = {name: (right if name.startswith("low.") else wrong)[name] for name in right}
    before = {name: (wrong if name.startswith("low.") else right)[name] for name in right}
    best = better_parts(chain, losses, before, found)
    assert all(torch.equal(best[name], right[name]) for name in right)
    assert better_parts(chain, losses, right, wrong) == right


def test_the_reverb_of_another_fit_is_taken_where_it_is_the_nearest() -> None:
    config = {"sends": {"effect": "sends", "delay": {"effect": "ping_pong_delay", "ir_duration": 1}}}
    config["sends"]["reverb"] = {"effect": "fdn", "ir_duration": 1}
    chain, dry = build(config, SR), noise(1.5)
    presets = [raws_from(chain, {}, seed) for seed in range(4)]
    for seed, preset in enumerate(presets):
        generator = torch.Generator().manual_seed(10 + seed)
        preset["sends.reverb.c"] = torch.randn(preset["sends.reverb.c"].shape, generator=generator) / 4
        preset["sends.delay.delay"] = preset["sends.delay.delay"] + seed
    losses = Losses(
        chain, Chunks(dry, rendered(chain, presets[2], dry), SR // 4, (0,)), VocalLoss(SR), torch.device("cpu")
    )
    first, second = other_reverbs(chain, presets[0], presets, losses)
    assert losses(first) <= losses(second) <= losses(presets[0])
    assert torch.equal(first["sends.reverb.c"], presets[2]["sends.reverb.c"])
    assert torch.equal(first["sends.delay.delay"], presets[0]["sends.delay.delay"])
    assert other_reverbs(build(CHAIN, SR), {}, presets, losses) == []
    assert other_reverbs(build({"effect": "panning"}, SR), {}, presets, losses) == []
    broken = presets[2] | {"sends.reverb.c": presets[2]["sends.reverb.c"] * torch.nan}
    assert len(other_reverbs(chain, presets[0], [broken, presets[2]], losses)) == 1


def test_a_plain_reverb_has_the_decay_and_level_of_the_lowest_loss() -> None:
    config = {"sends": {"effect": "sends", "reverb": {"effect": "fdn", "ir_duration": 3}}}
    chain, dry = build(config, SR), noise(1.5) * (torch.arange(round(1.5 * SR)) < SR)
    outputs = torch.randn(2, 6, generator=torch.Generator().manual_seed(0)) / 4
    raws = raws_from(chain, {}) | {"sends.reverb.c": outputs}
    gains = chain.sends.reverb.decay_gains(torch.full((49,), 1.6))
    right = raws | to_raws(chain, {"sends.reverb.gamma": gains, "sends.reverb.c": outputs * 0.4})
    losses = Losses(chain, Chunks(dry, rendered(chain, right, dry), SR // 4, (0,)), VocalLoss(SR), torch.device("cpu"))
    found = plain_reverb(chain, raws, losses)
    assert sorted(found) == ["sends.reverb.c", "sends.reverb.gamma"]
    assert all(torch.allclose(raw, right[name], atol=1e-5) for name, raw in found.items())
    times = chain.curves(functional_call(Knobs(chain), raws | found, ()))[-1]
    assert np.allclose(times.y, 1.6, rtol=1e-3)
    assert plain_reverb(build(CHAIN, SR), {}, losses) == {}


def test_presets_of_another_chain_and_of_another_start_are_refused() -> None:
    settings = FitSettings(start="signals", start_presets="presets/own", model="eq_comp")
    settings.read_model()
    with pytest.raises(UsageError, match="presets/own"):
        settings.check()
    settings = FitSettings(start_presets="presets/own")
    settings.read_model()
    with pytest.raises(UsageError, match="start_presets=presets/own needs start=signals; given: start=defaults"):
        settings.check()


def test_a_start_ends_between_two_steps_where_the_fit_is_stopped(tmp_path: Path) -> None:
    settings = FitSettings(start="signals", model="eq_comp_delay", chunk_duration=2.0, chunk_overlap=0.5)
    settings.read_model()
    recipe, asked = Recipe(settings), []
    x = torch.randn(1, 3 * 44100, generator=torch.Generator().manual_seed(0)) / 4

    def stopped() -> bool:
        asked.append(True)
        return len(asked) > 2

    pair = Pair("song", x, x.expand(2, -1), 44100, tmp_path, tmp_path, 0, PairCheck())
    with pytest.raises(Interrupted):
        recipe.track(pair, stopped=stopped)
    assert len(asked) == 3 < start.ADAPTING
