"""Random streams: the same for the same seed and names, and shared by no two seeds, epochs or splits."""

from itertools import product
from pathlib import Path

import pytest
import torch

from reknob.data.audio import write_audio
from reknob.estimation.loaders import MusicSettings, build_loaders
from reknob.estimation.statistics_cache import Processed
from reknob.runtime.seeds import stream, stream_seed

SEEDS, NUMBERS = range(4), range(50)


def test_no_two_seeds_or_numbers_or_names_share_a_stream() -> None:
    names = [("epoch",), ("batch",), ("epoch", 1), (1, "epoch")]
    streams = {stream_seed(seed, *name, number) for seed, name, number in product(SEEDS, names, NUMBERS)}
    assert len(streams) == len(SEEDS) * len(names) * len(NUMBERS)
    assert all(0 <= seed < 2**63 for seed in streams)


def test_a_stream_is_the_same_every_time() -> None:
    # As written down once, so that another version of numpy or Python gives no other training.
    assert stream_seed(0) == 7896617691693857887
    assert stream_seed(7, "epoch", 3) == stream_seed(7, "epoch", 3)
    assert torch.equal(torch.rand(3, generator=stream(1, "a")), torch.rand(3, generator=stream(1, "a")))
    assert not torch.equal(torch.rand(3, generator=stream(1, "a")), torch.rand(3, generator=stream(1, "b")))


@pytest.fixture
def music(tmp_path: Path) -> MusicSettings:
    """Settings of loaders of a folder that holds some noise."""
    for number in range(8):
        noise = torch.randn(1, 44100, generator=torch.Generator().manual_seed(number))
        write_audio(tmp_path / f"song{number}" / "take.wav", 0.1 * noise, 44100)
    return MusicSettings(data="folder", data_dir=str(tmp_path), log_dir=tmp_path / "logs", workers=0, seconds=0.2)


def test_splits_of_neighbouring_seeds_hold_other_excerpts(music: MusicSettings) -> None:
    def excerpt_seeds(seed: int) -> list[int]:
        loaders, _ = build_loaders(music, {"train": 4, "valid": 4, "test": 4}, 3, batch_size=4, seed=seed)
        return [loader.dataset.seed for loader in loaders.values()]

    seeds = [excerpt_seed for seed in SEEDS for excerpt_seed in excerpt_seeds(seed)]
    assert len(set(seeds)) == 3 * len(SEEDS)
    assert excerpt_seeds(0) == seeds[:3]


def test_the_codecs_of_neighbouring_seeds_and_parts_are_drawn_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def batch(self: Processed, indices: range, generator: torch.Generator) -> dict[str, None]:
        drawn.append(torch.rand((), generator=generator).item())
        return {"wet": None, "q": None}

    monkeypatch.setattr(Processed, "batch", batch)
    monkeypatch.setattr("reknob.estimation.statistics_cache.statistics_of", lambda *_: None)
    monkeypatch.setattr("reknob.estimation.statistics_cache.StatisticsSet.join", list)
    for seed, part in product((0, 1), (0, 1)):
        excerpts = type("Excerpts", (), {"seed": seed})()
        Processed(excerpts, None, 1.0)[part]
    assert len(set(drawn)) == len(drawn) > 4
