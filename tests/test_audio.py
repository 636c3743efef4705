"""Audio files, resampling, loudness: round trips, every refusal, and the numbers of BS.1770 and EBU 3341."""

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from reknob.data.audio import loudness, normalise_loudness, read_audio, resample, write_audio
from reknob.runtime.errors import UsageError


def tone(sr: int, seconds: float, freq: float = 1000.0, amplitude: float = 0.5, channels: int = 1) -> torch.Tensor:
    t = torch.arange(round(seconds * sr), dtype=torch.float64) / sr
    return (amplitude * torch.sin(2 * math.pi * freq * t)).float().expand(channels, -1).clone()


def noise(*shape: int, seed: int = 0, amplitude: float = 0.1) -> torch.Tensor:
    return amplitude * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("suffix", "sr", "channels", "error"),
    [
        (".wav", 44100, 1, 0.0),
        (".wav", 37123, 2, 0.0),
        (".wav", 192000, 5, 0.0),
        (".flac", 96000, 2, 1e-6),
        (".mp3", 44100, 2, 0.05),
        (".ogg", 44100, 2, 0.05),
        (".opus", 48000, 2, 0.05),
        (".OGG", 22050, 1, 0.05),
    ],
)
def test_what_is_written_is_read_back(tmp_path: Path, suffix: str, sr: int, channels: int, error: float) -> None:
    x = tone(sr, 1.0, 440.0, 0.5, channels)
    path = tmp_path / "new" / f"file{suffix}"
    write_audio(path, x, sr)
    y, sr_read = read_audio(str(path))
    assert sr_read == sr and y.dtype == torch.float32 and y.shape == x.shape
    middle = slice(sr // 10, -sr // 10)
    assert float((y - x)[:, middle].abs().max()) <= error
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_wav_keeps_what_is_over_full_scale_and_flac_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    x = tone(8000, 0.1, 500.0, 2.0)
    write_audio(tmp_path / "x.wav", x, 8000)
    assert not caplog.records
    assert torch.equal(read_audio(tmp_path / "x.wav")[0], x)
    write_audio(tmp_path / "x.flac", x, 8000)
    assert "peaks 6.0 dB over full scale are clipped" in caplog.text


def test_long_ogg_files_can_be_written(tmp_path: Path) -> None:
    write_audio(tmp_path / "x.ogg", noise(1, 44100 * 60), 44100)
    assert read_audio(tmp_path / "x.ogg")[0].shape == (1, 44100 * 60)


def test_a_refused_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x.mp3"
    write_audio(path, tone(48000, 0.5), 48000)
    before = path.read_bytes()
    with pytest.raises(UsageError, match=r"x.mp3: .mp3 cannot hold 1 channels at 96000 Hz: write wav, or resample"):
        write_audio(path, tone(96000, 0.5), 96000)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown audio suffix '.m4a'; known: .wav, .flac, .mp3, .ogg, .opus"):
        write_audio(tmp_path / "x.m4a", tone(8000, 0.1), 8000)


def test_files_that_are_no_audio_are_refused_by_name_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("hello world")
    (tmp_path / "zero.wav").write_bytes(b"")
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 2)), 44100)
    broken = np.zeros((4410, 2), dtype=np.float32)
    broken[441, 1] = np.nan
    soundfile.write(tmp_path / "nan.wav", broken, 44100, "FLOAT")
    broken[441, 1] = np.inf
    soundfile.write(tmp_path / "inf.wav", broken, 44100, "FLOAT")
    expected = {
        "missing.wav": "missing.wav does not exist: give the path of an audio file",
        ".": "is a folder: give an audio file",
        "text.wav": "text.wav cannot be read as audio (Format not recognised): give wav, flac, mp3, ogg, opus or aiff",
        "zero.wav": "zero.wav cannot be read as audio",
        "empty.wav": "empty.wav is empty: it holds no samples",
        "nan.wav": "nan.wav holds NaN or infinite samples, the first at 0.010 s",
        "inf.wav": "inf.wav holds NaN or infinite samples, the first at 0.010 s",
    }
    for name, message in expected.items():
        with pytest.raises(ValueError) as error:
            read_audio(tmp_path / name)
        assert message in str(error.value) and "\n" not in str(error.value)


def test_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_audio("~/x.wav", tone(8000, 0.1), 8000)
    assert (tmp_path / "x.wav").exists() and read_audio("~/x.wav")[1] == 8000


@pytest.mark.parametrize("sr", [8000, 22050, 32000, 37800, 48000, 96000])
def test_resampling_keeps_a_tone(sr: int) -> None:
    y = resample(tone(sr, 1.0, 1000.0, 0.5, 2), sr, 44100)
    assert y.shape == (2, 44100)
    middle = slice(4410, -4410)
    assert float((y - tone(44100, 1.0, 1000.0, 0.5, 2))[:, middle].abs().max()) < 1e-5


def test_resampling_removes_what_the_lower_rate_cannot_hold() -> None:
    y = resample(tone(48000, 1.0, 11500.0), 48000, 22050)
    assert float(y[:, 2000:-2000].abs().max()) < 1e-5


def test_equal_rates_change_nothing_and_rates_without_a_ratio_are_refused() -> None:
    x = noise(1, 1000)
    assert torch.equal(resample(x, 44100, 44100), x)
    with pytest.raises(
        ValueError, match=r"sample rates 44056 and 44100 Hz have no small ratio \(11014 : 11025\): resamp"
    ):
        resample(x, 44056, 44100)


@pytest.mark.parametrize("sr", [44100, 48000])
@pytest.mark.parametrize("level", [-23.0, -33.0])
def test_a_stereo_tone_has_the_loudness_that_ebu_3341_gives_it(sr: int, level: float) -> None:
    x = tone(sr, 20.0, 1000.0, 10 ** (level / 20), 2)
    assert loudness(x, sr) == pytest.approx(level, abs=0.1)


def test_the_gates_leave_out_quiet_parts_as_in_ebu_3341_case_3() -> None:
    levels = [(-36.0, 10.0), (-23.0, 60.0), (-36.0, 10.0)]
    x = torch.cat([tone(8000, seconds, 1000.0, 10 ** (level / 20), 2) for level, seconds in levels], dim=1)
    assert loudness(x, 8000) == pytest.approx(-23.0, abs=0.1)


@pytest.mark.parametrize(("sr", "channels"), [(44100, 1), (44100, 2), (48000, 2), (22050, 1)])
def test_loudness_agrees_with_pyloudnorm(sr: int, channels: int) -> None:
    pyloudnorm = pytest.importorskip("pyloudnorm")
    x = noise(channels, 5 * sr)
    x[:, sr : 2 * sr] *= 0.01
    x[:, 3 * sr :] *= 0.5
    theirs = pyloudnorm.Meter(sr, filter_class="DeMan").integrated_loudness(x.double().numpy().T)
    assert loudness(x, sr) == pytest.approx(theirs, abs=1e-3)
    default = pyloudnorm.Meter(sr).integrated_loudness(x.double().numpy().T)
    assert loudness(x, sr) == pytest.approx(default, abs=0.1)


def test_loudness_of_silence_is_minus_infinity_and_other_signals_are_refused() -> None:
    assert loudness(torch.zeros(1, 44100), 44100) == -math.inf
    assert loudness(noise(2, 44100, amplitude=1e-5), 44100) == -math.inf
    with pytest.raises(ValueError, match=r"0.399 s is too short to measure loudness: 0.4 s are needed"):
        loudness(noise(1, 3192), 8000)
    assert math.isfinite(loudness(noise(1, 3200), 8000))
    with pytest.raises(ValueError, match="loudness of 3 channels: only mono and stereo"):
        loudness(noise(3, 8000), 8000)


def test_normalised_loudness_is_what_was_asked_for() -> None:
    y = normalise_loudness(noise(2, 88200), 44100, -18.0)
    assert loudness(y, 44100) == pytest.approx(-18.0, abs=1e-3)
    with pytest.raises(ValueError, match="silent"):
        normalise_loudness(torch.zeros(1, 44100), 44100, -18.0)
