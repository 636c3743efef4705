"""play.py from end to end: to a file, to a device that stands in for the loudspeakers, and what it refuses."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from measures import relative_rms
from takes import SR, mixed, take

from reknob.data.audio import loudness, loudness_of_blocks, read_audio, read_blocks, write_audio
from scripts import play, render

#: As long and as loud as what is played, in floats.
AS_PLAYED = ["--output-loudness=chain", "--tail=0", "--bits=float"]


@pytest.fixture
def played(fitted: Path, tmp_path: Path) -> tuple[list[str], torch.Tensor]:
    """The arguments that play a take through a run, and what render.py makes of it."""
    run = ["--run", str(fitted), str(fitted.parents[2] / "take.wav")]
    assert render.main([*run, *AS_PLAYED, str(tmp_path / "rendered.wav")]) == 0
    return run, read_audio(tmp_path / "rendered.wav")[0]


@pytest.mark.parametrize("block", [1000, 2**16])
def test_what_is_played_to_a_file_is_what_is_rendered(
    played: tuple[list[str], torch.Tensor], block: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, expected = played
    assert play.main([*run, str(tmp_path / "out.wav"), "--block", str(block)]) == 0
    y, sr = read_audio(tmp_path / "out.wav")
    assert sr == SR and y.shape == expected.shape
    assert relative_rms(y, expected) < 1e-5
    assert "out.wav: 3.0 s of sound in " in capsys.readouterr().out


def test_a_realtime_chain_is_played_in_small_blocks(played: tuple[list[str], torch.Tensor], tmp_path: Path) -> None:
    run, _ = played
    assert render.main([*run, *AS_PLAYED, str(tmp_path / "expected.wav"), "--realtime"]) == 0
    assert play.main([*run, str(tmp_path / "out.wav"), "--realtime", "--block", "256", "--loudness=-18"]) == 0
    assert relative_rms(read_audio(tmp_path / "out.wav")[0], read_audio(tmp_path / "expected.wav")[0]) < 1e-5


class Device:
    """Stands in for a sound device: keeps what is written."""

    def __init__(self, samplerate: int, **settings: object) -> None:
        self.settings, self.played = settings | {"samplerate": samplerate}, []

    def __enter__(self) -> "Device":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, samples: np.ndarray) -> None:
        assert samples.flags.c_contiguous and samples.dtype == np.float32
        self.played.append(samples.copy())


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Device]]:
    opened: list[Device] = []

    def open_device(samplerate: int, **settings: object) -> Device:
        opened.append(Device(samplerate, **settings))
        return opened[-1]

    stand_in = SimpleNamespace(OutputStream=open_device, PortAudioError=RuntimeError)
    monkeypatch.setitem(sys.modules, "sounddevice", stand_in)
    return opened


def test_without_a_file_the_loudspeakers_play(
    played: tuple[list[str], torch.Tensor], devices: list[Device], capsys: pytest.CaptureFixture[str]
) -> None:
    run, expected = played
    assert play.main(run) == 0
    (device,) = devices
    assert device.settings["samplerate"] == SR and device.settings["channels"] == 2
    assert relative_rms(torch.from_numpy(np.concatenate(device.played).T), expected) < 1e-5
    assert capsys.readouterr().out.startswith("played: 3.0 s of sound in ")


def test_being_stopped_keeps_what_was_played(
    played: tuple[list[str], torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, expected = played
    answers = iter([False] * 4 + [True] * 9)
    monkeypatch.setattr(play.Interrupt, "__call__", lambda self: next(answers))
    assert play.main([*run, str(tmp_path / "out.wav"), "--block", "10000"]) == 130
    y, _ = read_audio(tmp_path / "out.wav")
    assert y.shape == (2, 40000)
    # The end's gain is repeated where the lookahead would see on.
    assert relative_rms(y[:, :39000], expected[:, :39000]) < 1e-5


def test_what_cannot_be_played_is_refused_in_one_line(
    played: tuple[list[str], torch.Tensor],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, _ = played
    write_audio(tmp_path / "rate.wav", take(0.5), 22050)
    write_audio(tmp_path / "silent.wav", torch.zeros(1, SR), SR)
    out = str(tmp_path / "out.wav")
    cases = [
        ([*run[:2], str(tmp_path / "rate.wav"), out], "rate.wav: 22050 Hz, but the chain runs at 44100 Hz"),
        ([*run[:2], str(tmp_path / "silent.wav"), out], "silent.wav: silent (nothing above -70 LUFS)"),
        ([*run[:2], "missing.wav", out], "missing.wav does not exist"),
        ([*run, str(tmp_path / "out.m4a")], "unknown audio suffix"),
        ([*run, out, "--block", "0"], "--block 0: give at least 1 sample"),
    ]
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    cases.append((run, "pip install sounddevice, or give a file to write"))
    for argv, message in cases:
        assert play.main(argv) == 2
        error = capsys.readouterr().err
        assert error.startswith("play.py: ") and message in error and error.count("\n") == 1, error


def test_a_sound_device_that_refuses_is_said_in_one_line(
    played: tuple[list[str], torch.Tensor], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = played
    stand_in = ModuleType("sounddevice")
    stand_in.PortAudioError = type("PortAudioError", (Exception,), {})

    def refuse(*_: object, **__: object) -> None:
        raise stand_in.PortAudioError("Error querying device -1")

    stand_in.OutputStream = refuse
    monkeypatch.setitem(sys.modules, "sounddevice", stand_in)
    assert play.main(run) == 2
    assert "no sound device: Error querying device -1; give a file to write" in capsys.readouterr().err


def test_blocks_of_a_file_are_the_file_and_have_its_loudness(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.flac", mixed(take()), SR)
    x, _ = read_audio(tmp_path / "a.flac")
    blocks = list(read_blocks(tmp_path / "a.flac", 7001))
    assert torch.equal(torch.cat(blocks, -1), x)
    assert loudness_of_blocks(blocks, SR) == pytest.approx(loudness(x, SR), abs=1e-9)


def test_a_bad_sample_in_a_later_block_is_placed(tmp_path: Path) -> None:
    x = take(1.0)
    x[0, 40000] = torch.nan
    write_audio(tmp_path / "a.wav", x, SR)
    with pytest.raises(ValueError, match="the first at 0.907 s"):
        list(read_blocks(tmp_path / "a.wav", 1000))
