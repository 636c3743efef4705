"""Sound as it comes back from lossy files."""

import pytest
import torch
from measures import relative_rms

from reknob.data.coding import CODECS, lossy_round_trip, random_lossy_round_trip
from reknob.data.music import generate_music

SR = 44100


def music(items: int, seconds: float = 1.0) -> torch.Tensor:
    return torch.stack([torch.from_numpy(generate_music(seed, seconds, SR)) for seed in range(items)])


@pytest.mark.parametrize("codec", CODECS)
def test_sounds_come_back_in_time_at_their_level_and_changed_the_more_the_smaller_the_file(codec: str) -> None:
    (x,) = music(1, 2.0)
    decoded = (lossy_round_trip(0.1 * x, SR, codec, compression) for compression in (0.0, 0.5, 0.9))
    errors = [relative_rms(y, 0.1 * x) for y in decoded]
    assert 1e-4 < errors[0] < errors[1] < errors[2] < 0.5 and errors[0] < 0.1


@pytest.mark.parametrize("codec", CODECS)
def test_flat_tops_are_lost(codec: str) -> None:
    x = (4 * torch.sin(2 * torch.pi * 100 * torch.arange(SR) / SR)).clamp(-1, 1)[None]
    flat = [((y.abs() - 1).abs() < 1e-6).float().mean() for y in (x, lossy_round_trip(x, SR, codec))]
    assert flat[0] > 0.5 and flat[1] < 0.01


def test_a_share_is_coded_and_the_rest_left_alone() -> None:
    x = music(12, 0.2)
    y = random_lossy_round_trip(x, SR, 0.5, torch.Generator().manual_seed(2))
    same = (x == y).all(-1).all(-1)
    assert 2 < same.sum() < 10 and torch.equal(random_lossy_round_trip(x, SR, 0.0), x)
    assert torch.equal(y, random_lossy_round_trip(x, SR, 0.5, torch.Generator().manual_seed(2)))


def test_silence_stays_silence_and_short_sounds_their_length() -> None:
    generator = torch.Generator().manual_seed(0)
    assert not random_lossy_round_trip(torch.zeros(3, 1, 5000), SR, generator=generator).any()
    assert random_lossy_round_trip(torch.ones(6, 1, 10), SR, generator=generator).shape == (6, 1, 10)
