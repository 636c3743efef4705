"""A whole step of a fit on the GPU's kernels: on a GPU where there is one, else in Triton's interpreter."""

import pytest
import torch
from measures import relative_rms
from triton_mode import DEVICE, triton_on_cpu  # noqa: F401

from reknob.afx.kernels.triton_gpu import fdn, lanes, loudness, spectral, spectral_product
from reknob.afx.registry import build
from reknob.data.chunks import Chunks
from reknob.fitting.fit import Fit
from reknob.fitting.track import TrackState
from reknob.losses import VocalLoss
from reknob.losses.weighting import a_weighting_fir

SR = 1000  # low, so that the interpreter takes seconds
CHAIN = {
    "peak": {"effect": "peak", "freq": {"range": [33, 450], "default": 200}, "gain": {"default": 3}},
    "comp": {"effect": "compressor_expander"},
    "sends": {
        "effect": "sends",
        "delay": {"effect": "ping_pong_delay", "ir_duration": 2, "surrogate": True},
        "reverb": {"effect": "fdn", "ir_duration": 0.5, "bands": 5, "delays": [29, 37, 43]},
    },
}
# All of a signal in one program, in chunks of few samples: the interpreter takes a time for each operation, and hardly
# more for one on some hundred lanes.
SIZES = {
    lanes: {"LANES": 1024, "SHORTEST": 16},
    spectral: {"BLOCK": 2**14, "QUADS": 2**9},
    spectral_product: {"BLOCK": 2**12},
    fdn: {"BLOCK": 2**10},
    loudness: {"SAMPLES": 2**12},
}


def pair(count: int) -> Chunks:
    """Noise of varying level, and the same noise panned."""
    generator, samples = torch.Generator().manual_seed(count), round(1.4 * SR)
    swell = 0.3 * torch.linspace(0, 6, samples).sin().square()
    dry = swell * torch.randn(count, 1, samples, generator=generator)
    return Chunks(dry, dry * torch.tensor([[0.9], [0.4]]), round(0.2 * SR), tuple(range(count)))


def begun(device: str) -> Fit:
    """A fit of two pairs, of one and of two chunks, after a step."""
    chain = build(CHAIN, SR).to(device)
    tracks = [TrackState(chain, pair(1)), TrackState(chain, pair(2), seed=1)]
    loss = VocalLoss(SR)
    loss.stft.taps = a_weighting_fir(SR, 21)  # of 101: the interpreter's time grows with them
    fit = Fit(chain, tracks, loss, lr=0.01, device=device)
    fit.step()
    return fit


def test_a_step_of_two_pairs_equals_that_on_the_cpu(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = begun("cpu")
    request.getfixturevalue("triton_on_cpu")
    if DEVICE == "cpu":
        for module, sizes in SIZES.items():
            for name, size in sizes.items():
                monkeypatch.setattr(module, name, size)
    there = begun(DEVICE)
    losses = [[report["loss"] for report in fit.read_reports()[0]] for fit in (here, there)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    # Equal up to rounding, which the signs of small differences in the spectral loss amplify.
    assert relative_rms(there.state.gradient.cpu(), here.state.gradient) < 2e-3
