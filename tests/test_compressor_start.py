"""The settings of a compressor, read from the levels of two recordings."""

import pytest
import torch
from torch import Tensor

from reknob.afx.compressor import SoftKneeCompressor
from reknob.afx.dynamics import CompressorExpander
from reknob.afx.effect import Effect, Knobs
from reknob.afx.registry import build
from reknob.fitting.compressor_start import CompressorStart, chain_start, compressor_start
from reknob.fitting.initialise import raws_from

SR = 22050
SOFT = {"threshold": -28.0, "ratio": 4.0, "knee": 8.0, "attack": 15.0, "release": 120.0, "average": 5.0, "makeup": 3.0}


def phrases(seconds: float = 8.0) -> Tensor:
    """Noise in notes of levels from -45 to -8 dB, as a recording has them, (1, T)."""
    generator = torch.Generator().manual_seed(0)
    T, length = round(seconds * SR), round(0.17 * SR)
    level = -45 + 37 * torch.rand(-(-T // length), generator=generator)
    decay = torch.exp(-torch.arange(length) / (0.12 * SR))
    envelope = (10 ** (level / 20)[:, None] * decay).flatten()[:T]
    return (envelope * torch.randn(T, generator=generator))[None]


def rendered(effect: Effect, given: dict[str, float], x: Tensor) -> Tensor:
    knobs = Knobs(effect)
    with torch.no_grad():
        return effect(x[None], **{name: torch.tensor(given.get(name, v.item())) for name, v in knobs().items()})[0]


def found(wet: Tensor, dry: Tensor) -> CompressorStart:
    start = compressor_start(dry, wet, SR)
    assert start is not None
    return start


@pytest.mark.parametrize("change", [{}, {"ratio": 1.6, "knee": 2.0}, {"threshold": -18.0, "release": 400.0}], ids=str)
def test_the_settings_of_a_soft_knee_compressor_come_back(change: dict[str, float]) -> None:
    dry, true = phrases(), SOFT | change
    start = found(rendered(SoftKneeCompressor(SR), true, dry), dry)
    assert start.threshold == pytest.approx(true["threshold"], abs=1.5)
    assert start.ratio == pytest.approx(true["ratio"], rel=0.1)
    assert start.makeup == pytest.approx(3, abs=0.4)
    assert start.release == pytest.approx(true["release"], rel=0.3)
    assert start.error < 0.3 and start.explained > 0.9


def test_the_settings_of_the_vocal_chain_s_compressor_come_back_despite_a_reverb() -> None:
    dry, effect = phrases(), CompressorExpander(SR)
    true = {"cmp_threshold": -30.0, "cmp_ratio": 3.0, "exp_threshold": -90.0, "attack": 20.0, "release": 200.0}
    wet = rendered(effect, true | {"makeup": 6.0}, dry)
    late = 0.03 * torch.nn.functional.pad(wet, (3000, 0))[:, : wet.shape[-1]]
    values = found(wet + late, dry).values(effect)
    assert values["cmp_threshold"].item() == pytest.approx(-30, abs=1.5)
    assert values["cmp_ratio"].item() == pytest.approx(3, rel=0.15)
    assert values["makeup"].item() == pytest.approx(6, abs=0.5)


def test_recordings_without_compression_show_none() -> None:
    dry = phrases(3.0)
    start = found(0.5 * dry, dry)
    assert start.makeup == pytest.approx(-6.02, abs=0.05) and start.explained < 0.1
    noisy = found(0.5 * dry + 1e-4 * torch.randn(dry.shape, generator=torch.Generator().manual_seed(1)), dry)
    assert noisy.ratio < 1.1


@pytest.mark.parametrize("dry", [phrases()[:, :1000], torch.zeros(1, SR), torch.ones(1, SR)], ids=["short", "0", "1"])
def test_recordings_that_do_not_vary_show_nothing(dry: Tensor) -> None:
    assert compressor_start(dry, dry, SR) is None


def test_a_chain_starts_at_what_its_first_compressor_shows() -> None:
    bus = {"effect": "parallel", "comp": {"effect": "compressor", "attack": {"range": [20, 100], "default": 30}}}
    chain = build({"band": {"effect": "low_shelf"}, "bus": bus, "second": {"effect": "compressor_expander"}}, SR)
    dry = phrases()
    values = chain_start(chain, dry, rendered(SoftKneeCompressor(SR), SOFT, dry))
    assert {name.rpartition(".")[0] for name in values} == {"bus.comp"}
    assert 20 < values["bus.comp.attack"] < 22
    assert all(raw.isfinite().all() for raw in raws_from(chain, values).values())
    assert chain_start(build({"effect": "low_shelf"}, SR), dry, dry) == {}
