"""What lossy coding does to sound."""

import torch

from data.coding import CUT, SNR, coded

SR = 44100


def noise(items: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(items, 1, SR, generator=torch.Generator().manual_seed(seed))


def ratio(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Power of x over that of its difference from y in dB, an item each."""
    return 10 * torch.log10(x.square().sum((1, 2)) / (x - y).square().sum((1, 2)))


def power_above(x: torch.Tensor, freq: float) -> torch.Tensor:
    power = torch.fft.rfft(x).abs().square()[..., 0, :]
    first = round(freq / SR * x.shape[-1])
    return power[:, first:].sum(1) / power.sum(1)


def test_noise_is_as_strong_as_that_of_codecs_and_half_is_cut_off_above() -> None:
    x = noise(60)
    y = coded(x, SR, generator=torch.Generator().manual_seed(1))
    cut = power_above(y, CUT[1] + 500) < 1e-3
    assert 20 < cut.sum() < 40
    kept = ratio(x, y)[~cut]
    assert kept.min() > SNR[0] - 1 and kept.max() < SNR[1] + 1 and kept.max() - kept.min() > 15


def test_noise_follows_the_spectrum() -> None:
    t = torch.arange(SR) / SR
    x = torch.sin(2 * torch.pi * 440 * t)[None, None].repeat(20, 1, 1)
    added = coded(x, SR, generator=torch.Generator().manual_seed(1)) - x
    assert power_above(added, 800).max() < 1e-3


def test_flat_tops_are_lost() -> None:
    x = (4 * torch.sin(2 * torch.pi * 100 * torch.arange(SR) / SR)).clamp(-1, 1)[None, None].repeat(20, 1, 1)
    y = coded(x, SR, generator=torch.Generator().manual_seed(1))
    flat = ((y.abs() - 1).abs() < 1e-6).float().mean((1, 2))
    assert (((x.abs() - 1).abs() < 1e-6).float().mean() > 0.5) and (flat < 0.01).all()


def test_a_share_is_coded_and_the_rest_left_alone() -> None:
    x = noise(40)
    y = coded(x, SR, 0.5, torch.Generator().manual_seed(2))
    same = (x == y).all(-1).all(-1)
    assert 10 < same.sum() < 30
    assert coded(x, SR, 0.0) is x
    assert torch.equal(y, coded(x, SR, 0.5, torch.Generator().manual_seed(2)))


def test_silence_stays_silence() -> None:
    assert not coded(torch.zeros(3, 1, 5000), SR).any()
