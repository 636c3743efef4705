"""Random streams: the same for the same seed and names, and shared by no two seeds, epochs or splits."""

from itertools import product
from pathlib import Path

import pytest
import torch

from reknob.data.audio import write_audio
from reknob.estimation.estimator import Estimator
from reknob.estimation.loaders import build_loaders
from reknob.estimation.statistics_cache import Processed
from reknob.estimation.train import Training
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


def test_epochs_of_neighbouring_seeds_draw_other_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    estimator = Estimator(sfx="peq", afx="peq", encoder="percentiles", sr=44100)

    def draws(seed: int, epoch: int) -> list[float]:
        torch.manual_seed(seed)
        training = Training(estimator, "params", 1e-4)
        monkeypatch.setattr(Training, "current_epoch", epoch)
        training.on_train_epoch_start()
        return torch.rand(3).tolist()

    assert draws(0, 1) == draws(0, 1)
    assert draws(0, 1) != draws(1, 0)


@pytest.fixture
def music(tmp_path: Path) -> dict:
    """Settings of loaders of a folder that holds some noise."""
    for number in range(8):
        noise = torch.randn(1, 44100, generator=torch.Generator().manual_seed(number))
        write_audio(tmp_path / f"song{number}" / "take.wav", 0.1 * noise, 44100)
    return {
        **{"data": "folder", "data_dir": str(tmp_path), "log_dir": str(tmp_path / "logs"), "pieces": 8, "workers": 0},
        **{"epoch_items": 4, "valid_items": 4, "test_items": 4, "batch_size": 4, "seconds": 0.2},
    }


def test_splits_of_neighbouring_seeds_hold_other_excerpts(music: dict) -> None:
    seeds = [loader.dataset.seed for seed in SEEDS for loader in build_loaders(music | {"seed": seed}, 3)[0].values()]
    assert len(set(seeds)) == 3 * len(SEEDS)
    again = build_loaders(music | {"seed": 0}, 3)[0].values()
    assert [loader.dataset.seed for loader in again] == seeds[:3]


def test_the_codecs_of_neighbouring_seeds_and_parts_are_drawn_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def batch(self: Processed, start: int, generator: torch.Generator) -> None:
        drawn.append(torch.rand((), generator=generator).item())

    monkeypatch.setattr(Processed, "_batch", batch)
    monkeypatch.setattr("reknob.estimation.statistics_cache.StatisticsSet.join", list)
    for seed, part in product((0, 1), (0, 1)):
        excerpts = type("Excerpts", (), {"seed": seed})()
        Processed(excerpts, None, 1.0)[part]
    assert len(set(drawn)) == len(drawn) > 4
