"""Excerpts: each a function of seed and index alone, whatever loads it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from reknob.data.audio import write_audio
from reknob.data.excerpts import Excerpts, excerpt_loader
from reknob.data.recordings import Recording, find_recordings

SR = 22050
SECONDS = 0.25


@pytest.fixture
def recordings(tmp_path: Path) -> list[Recording]:
    """Four recordings of different rates, formats and channel counts."""
    forms = [(".wav", 22050, 1), (".flac", 44100, 2), (".ogg", 22050, 2), (".mp3", 44100, 1), (".wav", 8000, 6)]
    for k, (suffix, sr, channels) in enumerate([*forms, (".wav", 48000, 2)]):
        x = 0.1 * torch.randn(channels, sr, generator=torch.Generator().manual_seed(k))
        write_audio(tmp_path / f"{k}{suffix}", x, sr)
    found = find_recordings("folder", tmp_path, "train", SECONDS).recordings
    assert len(found) == 4
    return found


def excerpts(recordings: list[Recording], length: int = 10, seed: int = 0) -> Excerpts:
    return Excerpts([recordings], 5, length, seed, sr=SR, seconds=SECONDS)


def loaded(data: Excerpts, batch_size: int, workers: int, epochs: tuple[int, ...] = (0,)) -> dict[str, torch.Tensor]:
    """All items of some epochs, one after another."""
    loader = excerpt_loader(data, batch_size, workers, fresh=True)
    batches = []
    for epoch in epochs:
        loader.sampler.set_epoch(epoch)
        batches += list(loader)
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


def test_items_have_their_shapes_peak_one_and_both_signs(recordings: list[Recording]) -> None:
    items = [excerpts(recordings)[k] for k in range(30)]
    dry, q = (torch.stack([item[key] for item in items]) for key in ("dry", "q"))
    assert dry.shape == (30, 1, round(SR * SECONDS)) and dry.dtype == torch.float32
    assert q.shape == (30, 5) and q.dtype == torch.float32
    torch.testing.assert_close(dry.abs().amax((1, 2)), torch.ones(30))
    assert 0 <= q.min() < 0.1 and 0.9 < q.max() < 1
    assert len({tuple(x[0, :4].tolist()) for x in dry}) == len({tuple(x.tolist()) for x in q}) == 30


def test_the_sign_is_random_and_the_scale_is_the_peak(tmp_path: Path) -> None:
    ramp = torch.linspace(0.1, 0.5, SR)[None]
    write_audio(tmp_path / "ramp.wav", ramp, SR)
    data = excerpts([Recording("ramp", tmp_path / "ramp.wav", SR, SR)])
    last = torch.stack([data[k]["dry"][0, -1] for k in range(20)])
    assert sorted(set(last.tolist())) == [-1.0, 1.0]
    starts = {round(abs(float(data[k]["dry"][0, 0])), 4) for k in range(20)}
    assert len(starts) == 20


def test_workers_and_batch_sizes_change_nothing(recordings: list[Recording]) -> None:
    data = excerpts(recordings)
    one = {key: torch.stack([data[k][key] for k in range(20)]) for key in ("dry", "q")}
    for batch_size, workers in ((2, 0), (5, 2)):
        other = loaded(data, batch_size, workers, epochs=(0, 1))
        assert all(torch.equal(one[key], other[key]) for key in one), (batch_size, workers)


def test_epochs_and_seeds_draw_anew_and_the_same_epoch_again(recordings: list[Recording]) -> None:
    data = excerpts(recordings)
    first, second, again = (loaded(data, 10, 0, (epoch,))["q"] for epoch in (0, 1, 0))
    assert torch.equal(first, again) and not torch.isin(first, second).any()
    assert not torch.isin(first, loaded(excerpts(recordings, seed=1), 10, 0)["q"]).any()


def test_an_item_names_its_data_set(recordings: list[Recording]) -> None:
    one, other = (
        Excerpts([recordings[:1], second], 5, 8, 0, sr=SR, seconds=SECONDS)
        for second in (recordings[1:2], recordings[2:3])
    )
    named = [int(one[index]["source"]) for index in range(8)]
    # Items of the first data set are those that another second one leaves as they are.
    assert named == [int(not torch.equal(one[index]["dry"], other[index]["dry"])) for index in range(8)]
    assert set(named) == {0, 1}


def test_loading_leaves_the_global_random_numbers_alone(recordings: list[Recording]) -> None:
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    loaded(excerpts(recordings), 5, 0)
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()


def test_fresh_batches_are_whole_and_others_are_all_the_same_items_every_time(recordings: list[Recording]) -> None:
    fresh, fixed = (excerpt_loader(excerpts(recordings), 4, fresh=fresh) for fresh in (True, False))
    assert [len(batch["dry"]) for batch in fresh] == [4, 4]
    first, second = (list(fixed) for _ in range(2))
    assert [len(batch["dry"]) for batch in first] == [4, 4, 2]
    assert all(torch.equal(a[key], b[key]) for a, b in zip(first, second, strict=True) for key in a)


def test_silent_and_broken_stretches_are_never_drawn(tmp_path: Path) -> None:
    x = torch.zeros(1, 4 * SR)
    x[:, : SR // 2] = 1e-3
    x[:, -SR // 2 :] = torch.nan
    write_audio(tmp_path / "a.wav", x, SR)
    data = excerpts([Recording("a", tmp_path / "a.wav", SR, 4 * SR)])
    for k in range(20):
        dry = data[k]["dry"]
        assert torch.isfinite(dry).all() and dry.abs().max() == 1


def test_another_recording_is_drawn_for_a_silent_one_and_only_silence_is_refused(tmp_path: Path) -> None:
    write_audio(tmp_path / "silent.wav", torch.zeros(1, SR), SR)
    write_audio(tmp_path / "loud.wav", torch.full((1, SR), 0.5), SR)
    silent, loud = (Recording(name, tmp_path / f"{name}.wav", SR, SR) for name in ("silent", "loud"))
    assert all(excerpts([silent, loud])[k]["dry"].abs().min() > 0.99 for k in range(10))
    with pytest.raises(ValueError, match=r"400 random excerpts in a row, the last of .*silent\.wav, peak below 1e-05"):
        excerpts([silent])[0]


def test_the_same_controls_whatever_the_recordings(recordings: list[Recording]) -> None:
    assert torch.equal(excerpts(recordings)[3]["q"], excerpts(recordings[:1])[3]["q"])


def test_recordings_that_cannot_serve_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no recordings"):
        excerpts([])
    with pytest.raises(ValueError, match=r"a\.wav has 0\.10 s, an excerpt takes 0\.25 s"):
        excerpts([Recording("a", tmp_path / "a.wav", SR, SR // 10)])
    with pytest.raises(ValueError, match="sample rates 44056 and 22050 Hz have no small ratio"):
        excerpts([Recording("a", tmp_path / "a.wav", 44056, 44056)])
