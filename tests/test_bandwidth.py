"""The highest frequency that a recording still holds: edges are placed, and none is claimed where there is none."""

import numpy as np
import pytest
import torch
from scipy.signal import butter, resample_poly, sosfilt, sosfiltfilt
from torch import Tensor

from reknob.data.audio import read_audio, resample
from reknob.data.bandwidth import band_edge
from reknob.data.pair_files import DEMO

SR = 44100


@pytest.fixture(scope="module")
def voice() -> Tensor:
    """The demo's dry voice, mono, 5 s."""
    return read_audio(DEMO / "dry.flac")[0][:, : 5 * SR]


def filtered(x: Tensor, order: int, freq: float, both_ways: bool = False) -> Tensor:
    apply = sosfiltfilt if both_ways else sosfilt
    return torch.from_numpy(apply(butter(order, freq, fs=SR, output="sos"), x.double().numpy()).copy())


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 32000])
def test_a_lower_rate_leaves_its_edge(voice: Tensor, rate: int) -> None:
    low = resample(voice, SR, rate)
    assert band_edge(resample(low, rate, SR), SR) == pytest.approx(rate / 2, rel=0.17)
    by_scipy = resample_poly(resample_poly(voice[0].double().numpy(), rate, SR), SR, rate)
    assert band_edge(torch.from_numpy(by_scipy)[None], SR) == pytest.approx(rate / 2, rel=0.09)


def test_the_edge_of_a_16_khz_voice_stands_out_of_16_bit_noise(voice: Tensor) -> None:
    low = resample(resample(0.3 * voice / voice.abs().max(), SR, 16000), 16000, SR)
    steps = (low * 32768 + torch.rand(low.shape, generator=torch.Generator().manual_seed(0)) - 0.5).round() / 32768
    assert band_edge(steps, SR) == pytest.approx(7700, abs=500)


@pytest.mark.parametrize("freq", [3000, 5000, 7500, 12000])
def test_a_steep_low_pass_is_an_edge_and_either_level_gives_the_same(voice: Tensor, freq: float) -> None:
    once, twice = filtered(voice, 12, freq), filtered(voice, 12, freq, both_ways=True)
    assert band_edge(twice, SR) == pytest.approx(freq, rel=0.09)
    assert band_edge(once, SR) == pytest.approx(freq, rel=0.18)  # 72 dB an octave
    assert band_edge(1e-5 * twice, SR) == pytest.approx(band_edge(twice, SR))


@pytest.mark.parametrize(("order", "freq"), [(1, 1000), (2, 1000), (2, 3000)])
def test_a_dull_voice_has_no_edge(voice: Tensor, order: int, freq: float) -> None:
    assert band_edge(voice, SR) == SR / 2
    assert band_edge(filtered(voice, order, freq), SR) == SR / 2


def test_full_bands_single_tones_scraps_and_silence_have_no_edge() -> None:
    rng = torch.Generator().manual_seed(0)
    t = torch.arange(2 * SR) / SR
    partials = sum(torch.sin(2 * np.pi * 440 * k * t) / k**2 for k in range(1, 50))
    silent = torch.zeros(2, 3 * SR)
    for x in (torch.randn(2, SR, generator=rng), torch.sin(2 * np.pi * 440 * t)[None], partials[None], silent):
        assert band_edge(x, SR) == SR / 2
    for length in (1, 100, 5000):
        assert 0 < band_edge(torch.randn(1, length, generator=rng), SR) <= SR / 2
    assert band_edge(torch.randn(1, 8000, generator=rng), 1000) == 500
