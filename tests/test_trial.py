"""Which of several parameters a fit continues with: by effect, and whether a start can be stopped."""

from pathlib import Path

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
from reknob.fitting.initialise import raws_from
from reknob.fitting.recipe import Recipe
from reknob.fitting.settings import FitSettings
from reknob.fitting.trial import Losses, better_parts
from reknob.losses import VocalLoss
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
