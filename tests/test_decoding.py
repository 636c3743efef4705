"""Audio files of every kind are read alike; what is no recording is refused at once, in one line."""

import os
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from reknob.data import container_audio
from reknob.data.audio import AUDIO_SUFFIXES, duration, read_audio, read_blocks, read_rate, write_audio
from reknob.data.decoding import open_audio
from reknob.data.recordings import find_recordings
from reknob.runtime.errors import UsageError

SR = 44100


def music(seconds: float = 1.0, sr: int = SR) -> torch.Tensor:
    t = torch.arange(round(seconds * sr)) / sr
    return torch.stack([0.4 * torch.sin(2 * torch.pi * freq * t) * (1 + torch.sin(5 * t)) / 2 for freq in (440, 660)])


def encode(path: Path, format: str, codec: str, x: torch.Tensor, sr: int) -> None:
    """Writes `x` (2, T) with PyAV."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format=format) as file:
        stream = file.add_stream(codec, rate=sr, layout="stereo")
        stream.bit_rate = 192000
        stream.codec_context.format = "s16p" if codec == "wavpack" else stream.codec_context.format
        stream.codec_context.open()
        context = stream.codec_context
        frame = av.AudioFrame.from_ndarray(x.numpy(), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = sr, 0
        convert = av.AudioResampler(context.format.name, "stereo", sr, frame_size=context.frame_size or 4096)
        for piece in [*convert.resample(frame), *convert.resample(None)]:
            file.mux(stream.encode(piece))
        file.mux(stream.encode(None))


#: name -> PyAV's format and codec, sample rate in Hz, samples by which the codec is late, largest error
CONTAINERS = {
    "a.m4a": ("ipod", "aac", SR, 0, 0.05),
    "a.mp4": ("mp4", "aac", SR, 0, 0.05),
    "lossless.m4a": ("ipod", "alac", SR, 0, 1e-4),
    "a.mov": ("mov", "pcm_s16le", SR, 0, 1e-4),
    "a.aac": ("adts", "aac", SR, 1024, 0.05),
    "a.mkv": ("matroska", "aac", SR, 0, 0.05),
    "a.webm": ("webm", "libopus", 48000, 0, 0.05),
    "a.mka": ("matroska", "flac", SR, 0, 1e-4),
    "a.wma": ("asf", "wmav2", SR, -2048, 0.05),
    "a.ac3": ("ac3", "ac3", SR, 256, 0.05),
    "a.wv": ("wv", "wavpack", SR, 0, 1e-4),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_what_pyav_decodes_is_read_like_any_file(tmp_path: Path, name: str) -> None:
    format, codec, sr, late, most = CONTAINERS[name]
    path, x = tmp_path / name, music(1.0, sr)
    encode(path, format, codec, x, sr)
    assert path.suffix in AUDIO_SUFFIXES
    y, sr_read = read_audio(path)
    assert sr_read == sr == read_rate(path)
    assert y.dtype == torch.float32 and -2048 <= y.shape[1] - x.shape[1] <= 5120
    assert float((y[:, 5000 + late : 35000 + late] - x[:, 5000:35000]).abs().max()) <= most
    assert abs(duration(path) - 1.0) < 0.15
    assert torch.equal(torch.cat(list(read_blocks(path, 777)), dim=1), y)
    with open_audio(path) as file:
        assert file.length() == y.shape[1]
        part = torch.from_numpy(file.read(20000, 5000)).T
        torch.testing.assert_close(part, y[:, 20000:25000], rtol=0, atol=1e-4)  # AAC's noise


def test_a_folder_of_them_is_a_data_set(tmp_path: Path) -> None:
    for name in ("a.m4a", "a.mkv", "a.aac"):
        encode(tmp_path / f"{name[-3:]}-{name}", *CONTAINERS[name][:2], music(1.0), SR)
    found = [find_recordings("folder", tmp_path, split, 0.5).recordings for split in ("train", "valid", "test")]
    assert sorted(r.path.suffix for each in found for r in each) == [".aac", ".m4a", ".mkv"]
    for recording in (each[0] for each in found):
        whole = read_audio(recording.path)[0].mean(0)
        torch.testing.assert_close(recording.read(0.4, 0.5, SR), whole[17640:39690], rtol=0, atol=1e-4)


def test_silence_that_an_mp4_leaves_out_is_silence(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "gap.mp4"
    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream("alac", rate=SR, layout="mono")
        for start in (0, 20 * 4096):
            samples = np.full((1, 4096), 8000, np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="s16p", layout="mono")
            frame.sample_rate, frame.pts = SR, start
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    y, _ = read_audio(path)
    assert y.shape == (1, 21 * 4096)
    assert not y[0, 4096 : 20 * 4096].any() and y[0, 20 * 4096 :].all()
    with open_audio(path) as file:
        assert np.array_equal(file.read(10000, 76000)[:, 0], y[0, 10000:86000].numpy())


def test_a_list_of_other_files_is_no_audio(tmp_path: Path) -> None:
    write_audio(tmp_path / "secret.wav", music(), SR)
    (tmp_path / "a.m4a").write_text(f"ffconcat version 1.0\nfile {tmp_path}/secret.wav\n")
    (tmp_path / "b.m4a").write_text(f"#EXTM3U\n#EXTINF:1,\n{tmp_path}/secret.wav\n#EXT-X-ENDLIST\n")
    for name in ("a.m4a", "b.m4a"):
        with pytest.raises(UsageError, match=f"{name} cannot be read as audio"):
            read_audio(tmp_path / name)


def streamed(path: Path, size: int, x: torch.Tensor) -> None:
    """A wav whose header gives the size of its data as `size`, as the writers of pipes leave it."""
    soundfile.write(path, x.T.numpy(), SR, "PCM_16")
    raw = bytearray(path.read_bytes())
    at = raw.index(b"data") + 4
    raw[at : at + 4] = struct.pack("<I", size)
    path.write_bytes(raw)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_a_wav_that_was_streamed_is_read_whole_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    path, x = tmp_path / "x.wav", music()
    streamed(path, size, x)
    for _ in range(2):
        y, sr = read_audio(path)
        assert sr == SR and y.shape == x.shape and float((y - x).abs().max()) < 1e-4
    assert caplog.text.count("the header of a streamed file") == 1
    with open_audio(path) as file:
        assert file.length() == SR
        assert np.array_equal(file.read(30000, 500), y[:, 30000:30500].numpy().T)


def test_a_wav_without_data_stays_empty(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    soundfile.write(tmp_path / "x.wav", np.zeros((0, 2)), SR, "PCM_16")
    (tmp_path / "y.wav").write_bytes((tmp_path / "x.wav").read_bytes() + b"LIST\x04\0\0\0INFO")
    for name in "xy":
        with pytest.raises(UsageError, match=f"{name}.wav is empty"):
            read_audio(tmp_path / f"{name}.wav")
    assert not caplog.records


def flac_that_claims(path: Path, frames: int, x: torch.Tensor) -> None:
    soundfile.write(path, x.T.numpy(), SR, "PCM_16")
    raw = bytearray(path.read_bytes())
    fields = int.from_bytes(raw[18:26], "big") >> 36 << 36 | frames
    raw[18:26] = fields.to_bytes(8, "big")
    path.write_bytes(raw)


def test_a_flac_of_unknown_length_is_read_whole(tmp_path: Path) -> None:
    pytest.importorskip("av")
    flac_that_claims(tmp_path / "x.flac", 0, music())
    y, _ = read_audio(tmp_path / "x.flac")
    assert y.shape == (2, SR) and float((y - music()).abs().max()) < 1e-4


def test_a_flac_that_claims_too_much_is_refused_without_taking_memory(tmp_path: Path) -> None:
    flac_that_claims(tmp_path / "x.flac", 2**36 - 1, music())
    with pytest.raises(UsageError, match=r"x\.flac cannot be read to its end"):
        read_audio(tmp_path / "x.flac")
    with pytest.raises(UsageError):
        find_recordings("folder", tmp_path, "train", 0.5)


def test_what_does_not_fit_into_memory_is_refused_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_audio(tmp_path / "x.wav", music(10.0), SR)
    monkeypatch.setattr("reknob.data.audio.free_bytes", lambda _: 6e6)
    with pytest.raises(UsageError, match="too long for the memory"):
        read_audio(tmp_path / "x.wav")


@pytest.mark.parametrize("sr", [1, 7, 1999, 768_001, 2**31 - 1])
def test_sample_rates_that_no_recording_has_are_refused(tmp_path: Path, sr: int) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, music().T.numpy(), SR)
    raw = bytearray(path.read_bytes())
    raw[24:28] = struct.pack("<I", sr)
    path.write_bytes(raw)
    for read in (read_audio, read_rate, lambda path: list(read_blocks(path, 100))):
        with pytest.raises(UsageError, match=rf"its sample rate is {sr} Hz; 2000 to 768000 Hz are allowed"):
            read(path)
    assert duration(path) == 0.0
    with pytest.raises(UsageError, match="no recording"):
        find_recordings("folder", tmp_path, "train", 0.5)


def test_a_recording_of_a_rate_without_a_ratio_is_named(tmp_path: Path) -> None:
    for name in "abc":
        write_audio(tmp_path / f"{name}.wav", music(1.0, 44101), 44101)
    (found,) = find_recordings("folder", tmp_path, "train", 0.5).recordings
    with pytest.raises(UsageError, match=r"\.wav: sample rates 44101 and 44100 Hz have no small ratio"):
        found.read(0.0, 0.5, SR)


def test_pipes_sockets_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.wav")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.wav"))
        (tmp_path / "link.wav").symlink_to("/dev/zero")
        for name in ("fifo.wav", "socket.wav", "link.wav"):
            with pytest.raises(UsageError, match=f"{name}: is a pipe, a socket or a device; give a file"):
                read_audio(tmp_path / name)
            assert duration(tmp_path / name) == 0.0


@pytest.mark.parametrize("path", ["", "a\0b.wav", "~nosuchuser/a.wav", "a" * 300 + ".wav", "a/" * 2500, "\udcff.wav"])
def test_paths_that_no_file_has_are_refused_in_one_line(path: str) -> None:
    for read in (read_audio, read_rate, lambda path: list(read_blocks(path, 100))):
        with pytest.raises(UsageError) as error:
            read(path)
        assert "\n" not in str(error.value) and len(str(error.value)) < 300
    assert duration(path) == 0.0
    with pytest.raises(UsageError):
        find_recordings("folder", path, "train", 0.5)


@pytest.mark.parametrize("name", ["x.wav", "x.m4a"])
def test_names_that_are_not_utf_8_are_read(tmp_path: Path, name: str) -> None:
    if name.endswith("m4a"):
        encode(tmp_path / name, "ipod", "alac", music(), SR)
    else:
        write_audio(tmp_path / name, music(), SR)
    odd = tmp_path / f"\udcff\udcfe{name}"
    try:
        (tmp_path / name).rename(odd)
    except OSError:
        pytest.skip("this file system takes no such name")
    assert read_audio(odd)[0].shape == (2, SR)
    (found,) = find_recordings("folder", tmp_path, "train", 0.5).recordings
    assert found.read(0.0, 0.5, SR).any()


def test_an_mp3_with_broken_tags_is_read_or_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.mp3"
    write_audio(path, music(), SR)
    sound = path.read_bytes()
    path.write_bytes(b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f" + sound)  # a tag of 256 MB, it says
    with pytest.raises(UsageError, match=r"x\.mp3 cannot be read as audio: its tags \(ID3\) are broken"):
        read_audio(path)
    path.write_bytes(b"ID3\x04\x00\x00\x00\x00\x00\x20" + bytes(range(32)) + sound)
    assert read_audio(path)[0].shape[0] == 2


def test_raw_samples_have_no_header_to_go_by(tmp_path: Path) -> None:
    (tmp_path / "x.raw").write_bytes(bytes(1000))
    with pytest.raises(UsageError, match=r"x\.raw cannot be read as audio \(it has no header"):
        read_audio(tmp_path / "x.raw")


def test_a_file_that_may_not_be_read_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_audio(tmp_path / "x.wav", music(), SR)
    monkeypatch.setattr(os, "access", lambda *_: False)  # as root may read everything
    with pytest.raises(UsageError, match="Permission denied"):
        read_audio(tmp_path / "x.wav")


def test_without_pyav_other_files_are_refused_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: Path) -> None:
        raise ImportError("av")

    (tmp_path / "x.wav").write_text("no audio")
    (tmp_path / "x.mkv").write_text("no audio")
    monkeypatch.setattr("reknob.data.decoding.ContainerAudio", missing)
    with pytest.raises(UsageError, match=r"x\.wav cannot be read as audio \(Format not recognised\)"):
        read_audio(tmp_path / "x.wav")
    with pytest.raises(UsageError, match=r"\.mkv files take PyAV; pip install av"):
        read_audio(tmp_path / "x.mkv")


def test_sound_that_changes_on_the_way_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode(tmp_path / "x.m4a", "ipod", "alac", music(), SR)
    audio = container_audio.ContainerAudio(tmp_path / "x.m4a")
    audio.channels = 1
    with pytest.raises(UsageError, match="changes its sample rate or its channels"):
        audio.read(0, 100)
