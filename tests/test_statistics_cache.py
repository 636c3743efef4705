"""Statistics of music that are computed once and cached."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reknob.data.audio import write_audio
from reknob.data.excerpts import Excerpts
from reknob.data.music import generate_music
from reknob.data.recordings import Recording, find_recordings
from reknob.estimation import statistics_cache
from reknob.estimation.estimator import Estimator, synthesise
from reknob.estimation.statistics_cache import PART, Processed, Untouched, cache_statistics
from reknob.estimation.statistics_training import StatisticsSet

SR = 44100
SECONDS = 0.8


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Recording]:
    folder = tmp_path_factory.mktemp("music")
    for seed in (1, 2, 3):
        x = torch.from_numpy(generate_music(seed, 3.0, SR))
        write_audio(folder / f"{seed}.wav", x, SR)
    return find_recordings("folder", folder, "train", SECONDS).recordings


def processed(recordings: list[Recording], items: int = PART, *, seed: int = 0, coded: float = 0.0) -> Processed:
    estimator = Estimator(sfx="dist", afx="dist", encoder="percentiles")
    return Processed(Excerpts([recordings], 3, items, seed, seconds=SECONDS), estimator, coded)


def equal(a: StatisticsSet, b: StatisticsSet) -> bool:
    return all(torch.equal(*columns) for columns in zip(a, b, strict=True))


def test_a_part_holds_the_statistics_and_controls_of_its_excerpts(recordings: list[Recording]) -> None:
    source = processed(recordings, 2 * PART)
    assert len(source) == 2
    part, item = source[1], source.excerpts[PART + 3]
    with torch.no_grad():
        wet = synthesise(source.estimator, {name: column[None] for name, column in item.items()})
        expected = source.estimator.controller.encoder.statistics(wet)
    assert len(part.q) == PART and torch.equal(part.q[3], item["q"])
    for cached, true in zip((part.spectral[3], part.wave[3]), expected, strict=True):
        assert torch.allclose(cached, true[0], atol=1e-3)


def test_a_share_is_coded(recordings: list[Recording]) -> None:
    clean, some = processed(recordings)[0], processed(recordings, coded=0.3)[0]
    same = (clean.wave - some.wave).abs().amax(1) < 1e-5
    assert 0.5 * PART < same.sum() < 0.9 * PART and torch.equal(clean.q, some.q)


def test_cached_parts_are_read_and_only_missing_ones_computed(
    recordings: list[Recording], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    compute = Processed.__getitem__

    def counted(source: Processed, number: int) -> StatisticsSet:
        computed.append(number)
        if computed == [0, 1]:
            raise KeyboardInterrupt
        return compute(source, number)

    part = 10
    monkeypatch.setattr(statistics_cache, "PART", part)
    monkeypatch.setattr(Processed, "__getitem__", counted)
    with pytest.raises(KeyboardInterrupt):
        cache_statistics(processed(recordings, 2 * part), tmp_path / "kept", 1, "")
    first = cache_statistics(processed(recordings, 2 * part), tmp_path / "kept", 1, "")
    assert computed == [0, 1, 1] and len(first.q) == 2 * part
    more = cache_statistics(processed(recordings, 3 * part), tmp_path / "kept", 1, "")
    assert computed == [0, 1, 1, 2] and equal(more.take(torch.arange(2 * part)), first)
    other = cache_statistics(processed(recordings, part, seed=1), tmp_path / "kept", 1, "")
    assert computed == [0, 1, 1, 2, 0] and not equal(other, first.take(torch.arange(part)))


def test_several_processes_compute_what_one_does(recordings: list[Recording], tmp_path: Path) -> None:
    source = processed(recordings, 2 * PART, coded=0.1)
    assert equal(*(cache_statistics(source, tmp_path / str(workers), workers, "") for workers in (1, 2)))


def test_another_recording_has_statistics_of_its_own(recordings: list[Recording]) -> None:
    longer = [*recordings[1:], replace(recordings[0], frames=recordings[0].frames - 1)]
    keys = [processed(recordings), processed(longer), processed(recordings, coded=0.1), processed(recordings, seed=1)]
    keys = [str(source.key()) for source in keys]
    assert len(set(keys)) == 4 and str(processed(recordings, 2 * PART).key()) == keys[0]
    recordings[0].path.touch()  # written again, as long as before
    assert str(processed(recordings).key()) not in keys


def test_windows_are_spread_over_a_recording_and_silent_ones_left_out(tmp_path: Path) -> None:
    x = torch.from_numpy(generate_music(1, 4.0, SR))
    x[..., 2 * SR :] = 0
    write_audio(tmp_path / "half.wav", x, SR)
    (recording,) = find_recordings("folder", tmp_path, "train", SECONDS).recordings
    whole = Recording("half.wav", recording.path, SR, 4 * SR)
    estimator = Estimator(sfx="peq", afx="peq", encoder="percentiles")
    assert len(Untouched([whole], estimator, SECONDS, 4)[0].q) == 2
    nothing = Untouched([replace(whole, first=3 * SR, frames=SR)], estimator, SECONDS, 4)[0]
    assert nothing.spectral.shape == (0, 18, 113) and nothing.q.shape == (0, 0)
