"""The effects of blind estimation give the outputs and gradients of the published release.

golden/beafx/effects.npz keeps every fifth sample of the recorded outputs and of the gradients of the audio.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from measures import relative_rms
from torch import Tensor

from reknob.afx.chain import Normalised
from reknob.afx.clipper import Chebyshev, Clipper, Taylor
from reknob.afx.dynamics import Compressor, SimpleCompressor
from reknob.afx.effect import Effect, flatten
from reknob.afx.equaliser import graphic_equaliser, parametric_equaliser
from reknob.afx.functional.level import centre_and_peak
from reknob.afx.registry import parse_chain

SR = 44100
STRIDE = 5
with np.load(Path(__file__).parent / "golden" / "beafx" / "effects.npz") as content:
    GOLDEN = {name: torch.from_numpy(content[name]) for name in content.files}

BANDS = dict(parametric_equaliser(SR).parts())
EFFECTS = {
    "lowshelf": BANDS["low_shelf"],
    "peak2": BANDS["peak2"],
    "highshelf": BANDS["high_shelf"],
    "geq": graphic_equaliser(SR),
    "hardnessdist": Clipper(SR),
    "taylor24": Taylor(SR),
    "chebyshev24": Chebyshev(SR),
    "simplecomp_fixed": SimpleCompressor(SR),
}
# Its response of 500 ms is longer than the release's transform, which folds it onto the start.
FOLDED = ("simplecomp_fixed", 0)
FLOOR = 1e-4


def golden(name: str, key: str) -> Tensor:
    return GOLDEN[f"{name}.{key}"]


def rows(name: str) -> list[int]:
    return [i for i in range(len(golden(name, "x"))) if (name, i) != FOLDED]


def run(effect: Effect, name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Output, gradient of the audio and gradient of the controls of sum(y·w), of the rows that are right."""
    x, q, w = (golden(name, key)[rows(name)].to(dtype) for key in "xqw")
    x.requires_grad_()
    q.requires_grad_()
    y = effect(x, **effect.from_unit(q))
    (y * w).sum().backward()
    return y.detach()[..., ::STRIDE], x.grad[..., ::STRIDE], q.grad


# The recorded arrays are float32, the gradients of the controls float64.
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
@pytest.mark.parametrize("name", EFFECTS)
def test_an_effect_gives_the_recorded_output_and_gradients(name: str, dtype: torch.dtype, bound: float) -> None:
    for got, key in zip(run(EFFECTS[name], name, dtype), ("y", "grad_x", "grad_q"), strict=True):
        assert relative_rms(got, golden(name, key)[rows(name)]) < bound, key


# The release's graphic equaliser maps its controls inside, and records them as they came.
@pytest.mark.parametrize("name", [name for name in EFFECTS if name != "geq"])
def test_controls_become_the_recorded_settings(name: str) -> None:
    values = flatten(EFFECTS[name].from_unit(golden(name, "q").double()))
    assert relative_rms(torch.cat([v.reshape(len(v), -1) for v in values.values()], 1), golden(name, "p")) < 1e-6


@pytest.mark.parametrize("name", ["lowshelf", "peak2", "highshelf"])
def test_synthesis_and_analysis_filters_are_one(name: str) -> None:
    x, q = golden(name, "x"), golden(name, "q")
    assert relative_rms(EFFECTS[name](x, **EFFECTS[name].from_unit(q))[..., ::STRIDE], golden(name, "dsp")) < 1e-6


def test_the_compressor_gives_the_recorded_gain_where_its_input_is_above_the_floor() -> None:
    x, effect = golden("compressor", "x").double(), Compressor(SR)
    gain = effect(x, **effect.from_unit(golden("compressor", "q").double())) / x
    loud = (x.abs() >= FLOOR)[..., ::STRIDE]
    assert relative_rms(gain[..., ::STRIDE][loud], golden("compressor", "gain")[loud].double()) < 1e-6


def test_the_compressor_keeps_the_sign_and_the_silence_of_small_samples() -> None:
    x, effect = torch.tensor([[[0.0, -5e-5, 5e-5, -0.5]]]), Compressor(SR)
    y = effect(x, **effect.from_unit(torch.full((1, 6), 0.5)))
    assert torch.equal(y.sign(), x.sign())


def as_released(chain: Normalised, x: Tensor, q: Tensor) -> list[Tensor]:
    """Outputs after each effect, with the release's floor, +1e-4 for every smaller sample, before the compressor."""
    values = chain.from_unit(q)
    stages = [(name, band, values["peq"][name]) for name, band in chain.peq.parts()]
    stages += [(name, effect, values[name]) for name, effect in chain.parts() if name != "peq"]
    outputs = []
    for name, effect, settings in stages:
        x = centre_and_peak(x)
        x = effect(torch.where(x.abs() < FLOOR, FLOOR, x) if name == "comp" else x, **settings)
        outputs.append(x)
    return outputs


def test_the_synthesis_chain_gives_what_is_recorded_after_every_effect() -> None:
    chain = parse_chain("dist_peq_compfull", SR, "synthesis")
    x, q = (golden("chain_synthesis", key).double() for key in "xq")
    for got, recorded in zip(as_released(chain, x, q), golden("chain_synthesis", "y_after"), strict=True):
        assert relative_rms(got[..., ::STRIDE], recorded) < 1e-6
    # The floor is what the release's compressor does to near silence; without it the difference is small.
    assert relative_rms(chain(x, **chain.from_unit(q))[..., ::STRIDE], recorded) < 2e-4


def test_the_hybrid_analysis_chain_in_evaluation_gives_the_recorded_output() -> None:
    chain = parse_chain("peq_comphalf_dist", SR, "analysis").eval()
    x, q = (golden("chain_analysis", key).double() for key in "xq")
    # Recorded in float32, through the release's transforms in float32.
    assert relative_rms(as_released(chain, x, q)[-1][..., ::STRIDE], golden("chain_analysis", "y")) < 1e-4
