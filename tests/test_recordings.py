"""Recordings: where data sets keep them, which split each is in, what is left out, and how excerpts are read."""

import builtins
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from reknob.data.audio import read_audio, resample, write_audio
from reknob.data.generated import GENERATOR, SPLITS, prepare_generated
from reknob.data.music import generate_music
from reknob.data.recordings import MUSDB18_VALID, RECORDINGS, find_recordings

SR = 44100


def noise(seconds: float, sr: int = SR, channels: int = 1, seed: int = 0) -> Tensor:
    """Noise (C, T) that swells and fades."""
    t = torch.arange(round(seconds * sr)) / sr
    return 0.2 * torch.randn(channels, len(t), generator=torch.Generator().manual_seed(seed)) * torch.sin(3 * t)


def write(path: Path, seconds: float = 0.5, sr: int = SR, channels: int = 1) -> None:
    write_audio(path, noise(seconds, sr, channels), sr)


def music(seconds: float, sr: int = SR) -> Tensor:
    """A piece (2, T) whose sides differ; lossy formats keep it better than noise."""
    x = torch.from_numpy(generate_music(8, seconds, sr)[0])
    return 0.8 * torch.stack([x, x.roll(300)])


def write_stems(path: Path, x: Tensor) -> None:
    """An mp4 with five sounds of AAC: `x` (2, T), then quieter ones that are not it."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, "w", format="mp4") as file:
        streams = [file.add_stream("aac", rate=SR, layout="stereo", options={"aac_pns": "0"}) for _ in range(5)]
        for k, stream in enumerate(streams):
            stream.bit_rate = 256000
            sound = (x if k == 0 else 0.1 * x.flip(1)).numpy()
            for start in range(0, sound.shape[1], 1024):
                samples = np.ascontiguousarray(sound[:, start : start + 1024])
                frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
                frame.sample_rate, frame.pts = SR, start
                file.mux(stream.encode(frame))
            file.mux(stream.encode(None))


def names(data: str, folder: Path, split: str, seconds: float = 0.4) -> list[str]:
    return [recording.name for recording in find_recordings(data, folder, split, seconds).recordings]


def error_of(data: str, folder: Path | None, split: str = "train", seconds: float = 0.4) -> str:
    with pytest.raises(ValueError) as error:
        find_recordings(data, folder, split, seconds)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".aiff", ".ogg", ".opus", ".mp3"])
def test_an_excerpt_is_that_slice_of_the_whole_file(tmp_path: Path, suffix: str) -> None:
    sr = 48000 if suffix == ".opus" else SR
    path, x = tmp_path / f"a{suffix}", music(6.0, sr)
    if suffix == ".aiff":
        soundfile.write(path, x.T.numpy(), sr)
    elif suffix == ".mp3":
        # A low rate, at which frames borrow most from those before.
        x = 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(6 * sr) / sr) * (x[0].abs() < 0.3)
        soundfile.write(path, x.numpy(), sr, format="MP3", bitrate_mode="VARIABLE", compression_level=0.9)
    else:
        write_audio(path, x, sr)
    whole, sr_read = read_audio(path)
    assert sr_read == sr
    (found,) = find_recordings("folder", tmp_path, "train", 1.0).recordings
    for start in (0.0, 0.01, 1.23456, 2.5):
        first = round(start * sr)
        expected = whole.mean(0)[first : first + sr]
        torch.testing.assert_close(found.read(start, 1.0, sr), expected, rtol=0, atol=1e-6, msg=f"{suffix} {start}")


@pytest.mark.parametrize(("rate", "sr"), [(48000, 44100), (22050, 44100), (96000, 22050), (44100, 48000)])
def test_an_excerpt_at_another_rate_is_that_slice_of_the_whole_resampled(tmp_path: Path, rate: int, sr: int) -> None:
    for name in "abc":
        write_audio(tmp_path / f"{name}.wav", noise(3.0, rate, 2), rate)
    (found,) = find_recordings("folder", tmp_path, "train", 1.0).recordings
    whole = resample(read_audio(found.path)[0].mean(0, keepdim=True), rate, sr)[0]
    for start in (0.0, 0.0005, 0.777777, 1.999, 5.0):
        first = min(round(start * sr), len(whole) - sr)
        x = found.read(start, 1.0, sr)
        assert x.shape == (sr,) and x.dtype == torch.float32
        torch.testing.assert_close(x, whole[first : first + sr], rtol=0, atol=1e-6)


def test_a_longer_excerpt_than_the_recording_is_refused(tmp_path: Path) -> None:
    for name in "abc":
        write(tmp_path / f"{name}.wav", 0.5)
    (found,) = find_recordings("folder", tmp_path, "train", 0.5).recordings
    assert len(found.read(0.0, 0.5, SR)) == SR // 2
    with pytest.raises(ValueError, match=r"\.wav has 0\.50 s, asked for an excerpt of 0\.6 s"):
        found.read(0.0, 0.6, SR)


def test_the_mixture_of_a_stem_file_is_read_without_lag_or_padding(tmp_path: Path) -> None:
    x = music(3.0)
    write_stems(tmp_path / "test" / "A - B.stem.mp4", x)
    (found,) = find_recordings("musdb18", tmp_path, "test", 1.0).recordings
    assert found.name == "test/A - B.stem.mp4" and found.sr == SR
    assert found.frames == x.shape[1]
    whole = found.read(0.0, 3.0, SR)
    source = x.mean(0)
    assert torch.corrcoef(torch.stack([whole, source]))[0, 1] > 0.99
    likeness = [float((whole.roll(lag) * source).sum()) for lag in range(-3, 4)]
    assert int(np.argmax(likeness)) == 3
    for start in (0.05, 1.1, 2.0):
        first = round(start * SR)
        torch.testing.assert_close(found.read(start, 1.0, SR), whole[first : first + SR], rtol=0, atol=1e-6)


def test_without_pyav_stem_files_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = builtins.__import__

    def without_av(name: str, *args: object, **kwargs: object) -> object:
        if name == "av":
            raise ImportError(name)
        return load(name, *args, **kwargs)

    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "a.stem.mp4").touch()
    monkeypatch.setattr(builtins, "__import__", without_av)
    assert "a.stem.mp4 cannot be read: .mp4 files take PyAV; pip install av" in error_of("musdb18", tmp_path, "test")


def test_an_mp3_whose_header_tells_no_length_has_its_true_one(tmp_path: Path) -> None:
    for name in "abc":
        x = noise(5.0, channels=2).numpy().T
        soundfile.write(tmp_path / f"{name}.mp3", x, SR, bitrate_mode="CONSTANT", compression_level=0.99)
    (found,) = find_recordings("folder", tmp_path, "train", 1.0).recordings
    length = len(soundfile.read(found.path)[0])
    assert soundfile.info(found.path).frames > length
    assert found.frames == length


def test_musdb18_is_split_as_published(tmp_path: Path) -> None:
    others = [f"Band {k} - Song" for k in range(4)]
    for name in (*MUSDB18_VALID, *others):
        write(tmp_path / "train" / name / "mixture.wav")
        write(tmp_path / "train" / name / "vocals.wav")
    write(tmp_path / "test" / "Band 9 - Song" / "mixture.wav")
    assert len(MUSDB18_VALID) == 14
    assert names("musdb18", tmp_path, "train") == [f"train/{name}/mixture.wav" for name in others]
    assert names("musdb18", tmp_path, "valid") == [f"train/{name}/mixture.wav" for name in sorted(MUSDB18_VALID)]
    assert names("musdb18", tmp_path, "test") == ["test/Band 9 - Song/mixture.wav"]


def test_musdb18_with_other_songs_validates_with_a_part_of_its_training_folder(tmp_path: Path) -> None:
    for name in ("train/a", "train/b", "train/c", "test/d", "test/e"):
        write(tmp_path / name / "mixture.wav")
    found = [names("musdb18", tmp_path, split) for split in SPLITS]
    assert [len(split) for split in found] == [2, 1, 2]
    assert {*found[0], *found[1]} == {f"train/{name}/mixture.wav" for name in "abc"}
    assert found[2] == ["test/d/mixture.wav", "test/e/mixture.wav"]


def test_a_song_that_is_there_as_stems_and_as_wav_counts_once(tmp_path: Path) -> None:
    write_stems(tmp_path / "test" / "a.stem.mp4", music(0.5))
    write(tmp_path / "test" / "a" / "mixture.wav")
    assert names("musdb18", tmp_path, "test") == ["test/a/mixture.wav"]


def test_a_folder_of_any_audio_is_split_by_recording_and_nothing_else(tmp_path: Path) -> None:
    for k in range(20):
        suffix, sr, channels = [(".wav", 22050, 1), (".flac", 48000, 2), (".ogg", 32000, 6), (".mp3", 44100, 2)][k % 4]
        write(tmp_path / f"disc {k % 3}" / f"{k}{suffix}", 0.5, sr, channels)
    write(tmp_path / ".trash" / "hidden.wav")
    write(tmp_path / "disc 0" / "._0.wav")
    found = {split: names("folder", tmp_path, split) for split in SPLITS}
    assert {split: len(each) for split, each in found.items()} == {"train": 16, "valid": 2, "test": 2}
    assert len({name for each in found.values() for name in each}) == 20
    assert all(each == sorted(each) for each in found.values())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for disc in ("disc 2", "disc 0", "disc 1"):
        (tmp_path / disc).rename(elsewhere / disc)
    assert {split: names("folder", elsewhere, split) for split in SPLITS} == found
    read = find_recordings("folder", elsewhere, "train", 0.4).recordings
    assert {len(recording.read(0.05, 0.4, SR)) for recording in read} == {round(0.4 * SR)}


@pytest.mark.parametrize("count", [3, 4, 7, 15])
def test_from_three_recordings_on_every_split_has_its_own(tmp_path: Path, count: int) -> None:
    for k in range(count):
        write(tmp_path / f"{k}.wav")
    found = [names("folder", tmp_path, split) for split in SPLITS]
    assert all(found) and len({name for each in found for name in each}) == sum(map(len, found)) == count


def test_the_same_recording_in_two_formats_is_in_one_split(tmp_path: Path) -> None:
    for k in range(6):
        write(tmp_path / f"{k}.wav")
        write(tmp_path / f"{k}.flac")
    for split in SPLITS:
        found = names("folder", tmp_path, split)
        assert found == sorted(f"{name[0]}{suffix}" for name in found[::2] for suffix in (".wav", ".flac"))


def test_fewer_recordings_are_split_in_time(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", 5.0)
    write(tmp_path / "b.wav", 5.0)
    whole = noise(5.0)[0]
    end = 0
    for split, seconds in (("train", 3.0), ("valid", 1.0), ("test", 1.0)):
        found = find_recordings("folder", tmp_path, split, 1.0).recordings
        assert [recording.name for recording in found] == ["a.wav", "b.wav"]
        assert found[0].first == end and found[0].duration == seconds
        assert torch.equal(found[0].read(0.0, seconds, SR), whole[end : end + found[0].frames])
        end += found[0].frames
    assert "80% to 100% of " in error_of("folder", tmp_path, "test", 1.5)


def test_medleydb_gives_mixes_or_raw_tracks_split_by_song(tmp_path: Path) -> None:
    songs = [f"Band{k}_Song" for k in range(5)]
    for song in songs:
        folder = tmp_path / "Audio" / song
        write(folder / f"{song}_MIX.wav")
        for k in (1, 2):
            write(folder / f"{song}_RAW" / f"{song}_RAW_0{k}_01.wav")
        write(folder / f"{song}_STEMS" / f"{song}_STEM_01.wav")
    for split, count in zip(SPLITS, (3, 1, 1), strict=True):
        mixes, raw = (find_recordings(data, tmp_path, split, 0.4).recordings for data in ("medleydb", "medleydb_raw"))
        assert (len(mixes), len(raw)) == (count, 2 * count)
        assert {r.path.parent.name for r in mixes} == {r.path.parents[1].name for r in raw}
        inside = names("medleydb", tmp_path / "Audio", split)
        assert [f"Audio/{name}" for name in inside] == [r.name for r in mixes]


@pytest.mark.parametrize("mix", ["wet_mix", "dry_mix"])
def test_the_drummers_of_enst_train_validate_and_test(tmp_path: Path, mix: str) -> None:
    for drummer in (1, 2, 3):
        write(tmp_path / f"drummer_{drummer}" / "audio" / mix / "001_hits.wav")
        write(tmp_path / f"drummer_{drummer}" / "audio" / "snare" / "001_hits.wav")
    for drummer, split in enumerate(SPLITS, start=1):
        assert names("enst", tmp_path, split) == [f"drummer_{drummer}/audio/{mix}/001_hits.wav"]


def test_what_is_left_out_is_named_with_the_reason(tmp_path: Path) -> None:
    train = tmp_path / "drummer_1" / "audio" / "wet_mix"
    write(train / "good.wav", 2.0)
    write(train / "short.wav", 0.3)
    write_audio(train / "silent.wav", torch.zeros(2, SR), SR)
    write_audio(train / "opposite.wav", torch.cat([noise(1.0), -noise(1.0)]), SR)
    (train / "empty.wav").touch()
    (train / "text.wav").write_text("no audio")
    write(tmp_path / "cut.flac", 2.0)
    flac = (tmp_path / "cut.flac").read_bytes()
    (train / "cut.wav").write_bytes(flac[: len(flac) // 2])
    found = find_recordings("enst", tmp_path, "train", 1.0)
    assert [r.path.name for r in found.recordings] == ["good.wav"]
    lines = "\n".join(found.skipped)
    assert len(found.skipped) == 6
    for reason in (
        r"short\.wav lasts 0\.30 s, shorter than an excerpt of 1 s",
        r"silent\.wav is silent",
        r"opposite\.wav is silent",
        r"empty\.wav cannot be read as audio",
        r"text\.wav cannot be read as audio",
        r"cut\.wav (cannot be read|ends before)",
    ):
        assert re.search(reason, lines), (reason, lines)


def test_a_recording_with_one_sound_in_long_silence_is_no_silent_one(tmp_path: Path) -> None:
    x = torch.zeros(1, 5 * SR)
    x[0, -100] = 0.5
    write_audio(tmp_path / "drummer_1" / "audio" / "wet_mix" / "a.wav", x, SR)
    assert len(names("enst", tmp_path, "train")) == 1


def test_files_of_other_formats_are_counted_by_their_suffix(tmp_path: Path) -> None:
    for k in range(3):
        write(tmp_path / f"{k}.wav")
    for name in ("a.xyz", "b.XYZ", "readme.txt"):
        (tmp_path / name).touch()
    assert find_recordings("folder", tmp_path, "train", 0.4).skipped == [
        "1 files *.txt are of no known audio format",
        "2 files *.xyz are of no known audio format",
    ]


def test_wrong_requests_are_refused_in_one_line(tmp_path: Path) -> None:
    assert error_of("musdb", tmp_path) == f"unknown data 'musdb'; known: {', '.join(RECORDINGS)}"
    assert error_of("folder", tmp_path, "dev") == "unknown split 'dev'; known: train, valid, test"
    assert error_of("folder", None).startswith("data=folder takes data_dir=FOLDER, a folder of audio files (wav")
    assert "none does not exist" in error_of("folder", tmp_path / "none")
    (tmp_path / "file").touch()
    assert "file is a file" in error_of("folder", tmp_path / "file")


@pytest.mark.parametrize("data", RECORDINGS)
def test_another_layout_is_refused_with_what_was_expected_and_what_is_there(tmp_path: Path, data: str) -> None:
    assert error_of(data, tmp_path).endswith("it holds: none")
    for k in range(7):
        (tmp_path / f"{k}.txt").touch()
    message = error_of(data, tmp_path)
    assert RECORDINGS[data].expected in message
    assert message.endswith("it holds: 0.txt, 1.txt, 2.txt, 3.txt, 4.txt, 2 more")


def test_a_split_of_which_nothing_is_left_says_why(tmp_path: Path) -> None:
    for k in range(3):
        write(tmp_path / f"{k}.wav")
    message = error_of("folder", tmp_path, "train", 10.0)
    assert "no recording for split train" in message and "lasts 0.50 s, shorter than an excerpt of 10 s" in message


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.flac"))}


def test_generated_pieces_do_not_depend_on_workers_and_are_made_once(tmp_path: Path) -> None:
    counts, told = {"train": 2, "valid": 1}, []
    prepare_generated(tmp_path / "one", counts, 1.0, progress=lambda *done: told.append(done))
    prepare_generated(tmp_path / "two", counts, 1.0, workers=2)
    made = contents(tmp_path / "one")
    assert list(made) == ["train/000000.flac", "train/000001.flac", "valid/000000.flac"]
    assert len(set(made.values())) == 3 and contents(tmp_path / "two") == made
    assert told == [(1, 3), (2, 3), (3, 3)]
    (tmp_path / "one" / "train" / "000001.flac").unlink()
    kept = (tmp_path / "one" / "train" / "000000.flac").stat().st_mtime_ns
    told.clear()
    prepare_generated(tmp_path / "one", counts | {"test": 1}, 1.0, progress=lambda *done: told.append(done))
    assert told == [(1, 2), (2, 2)]
    assert (tmp_path / "one" / "train" / "000000.flac").stat().st_mtime_ns == kept
    assert {name: data for name, data in contents(tmp_path / "one").items() if name in made} == made


def test_generated_pieces_are_read_like_any_other(tmp_path: Path) -> None:
    prepare_generated(tmp_path, {"train": 2, "valid": 1}, 1.0)
    assert names("generated", tmp_path, "train") == ["train/000000.flac", "train/000001.flac"]
    (found,) = find_recordings("generated", tmp_path, "valid", 1.0).recordings
    assert found.frames == SR
    expected = 0.9 * torch.from_numpy(generate_music(1, 1.0, SR)[0])
    torch.testing.assert_close(found.read(0.0, 1.0, SR), expected, rtol=0, atol=2**-22)
    assert error_of("generated", tmp_path, "test") == f"no recording for split test in data_dir={tmp_path}: none"


def test_a_folder_of_other_pieces_or_files_is_not_generated_into(tmp_path: Path) -> None:
    prepare_generated(tmp_path / "one", {"train": 1}, 0.5)
    with pytest.raises(ValueError, match=r"holds pieces made with .*0\.5.*, asked for .*0\.6.*: give another folder"):
        prepare_generated(tmp_path / "one", {"train": 1}, 0.6)
    write(tmp_path / "own" / "take.wav")
    with pytest.raises(ValueError, match="own holds something else than generated pieces: give a new folder"):
        prepare_generated(tmp_path / "own", {"train": 1}, 0.5)
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == ["take.wav"]


def test_pieces_that_sound_different_have_another_version() -> None:
    level = np.sqrt((generate_music(1, 1.0, SR)[0].reshape(10, -1) ** 2).mean(1))
    version_1 = [0.2305, 0.2707, 0.2558, 0.2024, 0.2904, 0.2733, 0.2513, 0.2900, 0.2549, 0.2482]
    assert GENERATOR == 1
    np.testing.assert_allclose(level, version_1, atol=2e-4)
