"""Audio files written: what formats hold, told before work; clipping; a full disk; Opus; wav over 4 GB."""

import errno
import logging
import resource
from pathlib import Path

import pytest
import soundfile
import torch
from torch import Tensor

from reknob.data import audio_output
from reknob.data.audio import audio_writer, check_audio_output, read_audio, write_audio
from reknob.data.resampling import BlockResampler, resample
from reknob.runtime.errors import UsageError


def noise(channels: int, length: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(channels, length, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "name, sr, channels",
    [
        ("x.wav", 44100, 2),
        ("x.wav", 192000, 32),
        ("x.flac", 96000, 8),
        ("x.mp3", 44100, 2),
        ("x.ogg", 200000, 255),
        ("x.opus", 44100, 2),
        ("x.OPUS", 16000, 1),
    ],
)
def test_what_a_format_holds_passes_the_check_before_work(tmp_path, name, sr, channels):
    check_audio_output(tmp_path / name, sr, channels)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name, sr, channels, message",
    [
        ("x.mp3", 96000, 2, ".mp3 cannot hold 2 channels at 96000 Hz: write wav, or resample"),
        ("x.mp3", 44100, 3, ".mp3 cannot hold 3 channels at 44100 Hz: write wav, or resample"),
        ("x.flac", 44100, 9, ".flac cannot hold 9 channels"),
        ("x.wav", 44100, 2000, ".wav cannot hold 2000 channels"),
        ("x.ogg", 384000, 2, ".ogg cannot hold 2 channels at 384000 Hz"),  # libsndfile crashes on both
        ("x.ogg", 44100, 256, ".ogg cannot hold 256 channels"),
        ("x.opus", 48000, 256, ".opus cannot hold 256 channels"),
        ("x.opus", 44101, 2, "no small ratio"),
        ("x.m4a", 44100, 2, "unknown audio suffix '.m4a'"),
        ("x", 44100, 2, "unknown audio suffix ''"),
    ],
)
def test_what_a_format_does_not_hold_is_refused_before_work(tmp_path, name, sr, channels, message):
    with pytest.raises(UsageError) as error:
        check_audio_output(tmp_path / name, sr, channels)
    assert message in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UsageError), audio_writer(tmp_path / name, sr, channels):
        pytest.fail("the writer was opened")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".mp3", ".ogg", ".opus", ".flac"])
def test_peaks_over_full_scale_are_told_of_every_format_that_clips(tmp_path, caplog, suffix):
    write_audio(tmp_path / f"quiet{suffix}", noise(2, 9600), 48000)
    assert not caplog.records
    write_audio(tmp_path / f"loud{suffix}", 9.2 / 0.1 * noise(2, 9600).clamp(-0.1, 0.1), 48000)
    (record,) = caplog.records
    assert "peaks 19.3 dB over full scale" in record.message and "wav" in record.message


def test_a_wav_of_floats_does_not_clip_and_says_nothing(tmp_path, caplog):
    write_audio(tmp_path / "x.wav", 90 * noise(1, 4800), 48000)
    assert not caplog.records


@pytest.mark.parametrize("size", [1, 1000, 44100])
@pytest.mark.parametrize("rates", [(44100, 48000), (48000, 44100), (96000, 48000), (22050, 48000)])
def test_resampling_block_by_block_is_that_of_the_whole(size, rates):
    x = noise(2, 30000 if size > 1 else 1200)
    blocks = BlockResampler(*rates)
    y = torch.cat([*(blocks.process(block) for block in x.split(size, dim=1)), blocks.flush()], dim=1)
    expected = resample(x, *rates)
    assert y.shape == expected.shape
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-6)


def test_resampling_nothing_gives_nothing():
    assert BlockResampler(44100, 48000).flush().numel() == 0


def test_opus_is_written_at_48_khz_whatever_the_blocks(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    t = torch.arange(88200) / 44100
    x = 0.5 * torch.sin(2 * torch.pi * 440 * t).expand(2, -1)
    with audio_writer(tmp_path / "x.opus", 44100, 2) as write:
        for block in x.split(10000, dim=1):
            write(block)
    y, sr = read_audio(tmp_path / "x.opus")
    assert sr == 48000 and y.shape == (2, 96000)
    assert float((y - resample(x, 44100, 48000))[:, 4800:-4800].abs().max()) < 0.05
    assert "resampled from 44100 to 48000 Hz, which .opus supports" in caplog.text


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".ogg", ".opus"])
def test_what_the_disk_refuses_is_told_as_such(tmp_path, suffix):
    path, before = tmp_path / f"x{suffix}", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))  # bytes; libsndfile tells of it in no or other words
    try:
        with pytest.raises(OSError) as error:
            write_audio(path, noise(2, 96000), 48000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.value.errno == errno.EFBIG and error.value.filename == str(path)
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_no_matter_of_channels(tmp_path):
    with pytest.raises(OSError, match="No space left on device.*song.wav"):
        with audio_output._Disk(Path("/dev/full"), Path("song.wav")) as disk, disk.raising():
            with audio_output._opened(disk, Path("song.wav"), 44100, 2, 100) as file:
                file.write(noise(2, 100).T.numpy())


def test_an_error_of_the_one_who_writes_is_not_taken_for_the_disk_s(tmp_path):
    with pytest.raises(AssertionError, match="mine"), audio_writer(tmp_path / "x.wav", 44100, 2):
        raise AssertionError("mine")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("length", "kind"), [(1000, "WAV"), (2**29, "RF64"), (None, "RF64")])
def test_a_wav_that_may_exceed_4_gb_has_room_for_its_length(tmp_path, length, kind):
    path = tmp_path / "x.wav"
    with audio_output._Disk(path, path) as disk, audio_output._opened(disk, path, 44100, 2, length) as file:
        assert file.format == kind
        file.write(noise(2, 1000).T.numpy())
    assert path.read_bytes()[:4] == b"RIFF"  # as it turned out short
    assert torch.equal(read_audio(path)[0], noise(2, 1000))


def test_a_wav_over_4_gb_is_whole(tmp_path):
    path, x, start = tmp_path / "x.wav", noise(2, 1000).T.numpy(), 2**29
    with audio_output._Disk(path, path) as disk, audio_output._opened(disk, path, 44100, 2, None) as file:
        file.write(x)
        file.seek(start)  # a hole, which takes no room
        file.write(x)
    assert path.stat().st_size > 2**32
    info = soundfile.info(path)
    assert (info.format, info.frames) == ("RF64", start + 1000)
    assert (soundfile.read(path, start=start, dtype="float32")[0] == x).all()
    path.unlink()
