"""Rendering as files need it: rate, length and tail, level, dry mixed in; whole folders, bit depths and bad files."""

import logging
import math
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from measures import relative_rms
from torch import Tensor

from reknob.afx.effect import Effect, Knobs, Values, flatten
from reknob.afx.registry import build
from reknob.data.audio import bits_like, loudness, read_audio, read_bits, write_audio
from reknob.data.file_lists import list_outputs
from reknob.data.rendering import render_recording
from reknob.formats.preset_document import PresetDocument, write_document
from reknob.runtime.errors import UsageError
from scripts import render

SR = 44100
ECHO = {"echo": {"effect": "ping_pong_delay", "ir_duration": 2.0}}
BAND = {"band": {"effect": "peak"}}


def sound(channels: int = 1, seconds: float = 1.0, sr: int = SR) -> Tensor:
    x = 0.05 * torch.randn(channels, round(seconds * sr), generator=torch.Generator().manual_seed(3))
    return x * torch.linspace(0, 1, x.shape[1])


def with_values(config: dict, **changed: float) -> tuple[Effect, Values]:
    """A chain, and its defaults but for the parameters of its first effect that are given."""
    chain = build(config, SR).eval()
    values = Knobs(chain)()
    first = values[next(iter(config))]
    first |= {name: torch.tensor(value) for name, value in changed.items()}
    return chain, values


@pytest.fixture
def preset(tmp_path: Path) -> str:
    """A document of one equaliser band, which raises the level by some dB."""
    chain, values = with_values(BAND, gain=6.0, freq=1000.0, Q=0.5)
    write_document(tmp_path / "preset.json", PresetDocument(BAND, SR, -18.0, flatten(values)))
    return str(tmp_path / "preset.json")


def written(path: Path, x: Tensor, bits: int | None = None, sr: int = SR) -> Path:
    write_audio(path, x, sr, bits)
    return path


def test_a_tail_ends_60_db_below_the_peak_and_a_length_given_is_kept() -> None:
    chain, values = with_values(ECHO, delay=250.0, feedback=0.5, gain=1.0)
    x = torch.zeros(1, SR)
    x[0, SR // 2] = 0.5
    auto = render_recording(chain, values, x, SR, lufs=None, output="chain")
    seen: list[int] = []

    def watched(blocks: Iterable[Tensor]) -> Iterable[Tensor]:
        for block in blocks:
            seen.append(block.shape[1])
            yield block

    fixed = render_recording(chain, values, x, SR, lufs=None, output="chain", tail=2.0, watched=watched)
    assert seen == [SR], "a bar is given the blocks of the input"
    none = render_recording(chain, values, x, SR, lufs=None, output="chain", tail=0.0)
    assert fixed.shape[1] == 3 * SR and none.shape[1] == SR
    peak = float(fixed.abs().max())
    loud = (fixed.abs().amax(0) > 1e-3 * peak).nonzero()
    assert SR < auto.shape[1] == int(loud[-1]) + 1 < 3 * SR
    assert torch.equal(auto, fixed[:, : auto.shape[1]]) and torch.equal(none, fixed[:, :SR])
    silent = torch.cat([x, torch.zeros(1, 4 * SR)], 1)
    assert render_recording(chain, values, silent, SR, lufs=None).shape[1] == silent.shape[1]


def test_the_output_has_the_loudness_of_the_input_that_asked_for_or_the_chain_s() -> None:
    chain, values = with_values(BAND, gain=6.0, freq=1000.0, Q=0.5)
    x = sound()
    own = loudness(x, SR)
    ends = {output: render_recording(chain, values, x, SR, lufs=-18.0, output=output) for output in ("keep", -23.0)}
    assert loudness(ends["keep"], SR) == pytest.approx(own, abs=0.1)
    assert loudness(ends[-23.0], SR) == pytest.approx(-23, abs=0.1)
    chains = render_recording(chain, values, x, SR, lufs=-18.0, output="chain")
    assert loudness(chains, SR) > -17.5
    # What cannot be measured gets back the gain that it had.
    brief = render_recording(chain, values, x[:, :1000], SR, lufs=None, output="keep", tail=0.0)
    assert torch.equal(brief, render_recording(chain, values, x[:, :1000], SR, lufs=None, output="chain", tail=0.0))
    with pytest.raises(UsageError, match="too short to measure"):
        render_recording(chain, values, x[:, :1000], SR, lufs=None, output=-20.0)
    for wrong in ({"output": "kept"}, {"tail": -1.0}, {"tail": "long"}, {"mix": 1.5}):
        with pytest.raises(UsageError, match="give"):
            render_recording(chain, values, x, SR, lufs=None, **wrong)


def test_the_input_is_mixed_in_at_its_place_in_both_its_channels() -> None:
    chain, values = with_values({**ECHO, "low": {"effect": "low_pass"}}, delay=250.0, gain=1.0)
    x = sound(2)
    wet, half, dry = (
        render_recording(chain, values, x, SR, lufs=None, output="chain", tail=0.5, mix=mix) for mix in (1, 0.5, 0)
    )
    assert torch.equal(dry[:, :SR], x) and not dry[:, SR:].any()
    assert relative_rms(half, 0.5 * wet + 0.5 * dry) < 1e-6


def test_stereo_goes_through_a_chain_that_takes_it_and_is_averaged_for_one_that_does_not() -> None:
    x = sound(2)
    chain, values = with_values(BAND, gain=6.0)
    y = render_recording(chain, values, x, SR, lufs=None, output="chain", tail=0.0)
    sides = [render_recording(chain, values, side[None], SR, lufs=None, output="chain", tail=0.0) for side in x]
    assert relative_rms(y, torch.cat(sides)) < 1e-6
    assert len(render_recording(chain, values, x, SR, lufs=None, stereo=False)) == 1
    chain, values = with_values(ECHO)
    mono = render_recording(chain, values, x.mean(0, keepdim=True), SR, lufs=None, output="chain")
    assert torch.equal(render_recording(chain, values, x, SR, lufs=None, output="chain"), mono)
    with pytest.raises(UsageError, match="takes mono"):
        render_recording(chain, values, x, SR, lufs=None, stereo=True)


@pytest.mark.parametrize(("name", "bits", "kept"), [("a.wav", 16, 16), ("a.flac", 24, 24), ("a.wav", 32, 32)])
def test_a_file_has_rate_depth_and_loudness_of_its_input(
    preset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, bits: int, kept: int
) -> None:
    source, sr = written(tmp_path / name, sound(sr=22050), bits, 22050), 22050
    assert render.main(["--preset", preset, str(source), str(tmp_path / "out" / name)]) == 0
    y, sr_out = read_audio(tmp_path / "out" / name)
    assert sr_out == sr and read_bits(tmp_path / "out" / name) == kept
    assert loudness(y, sr) == pytest.approx(loudness(sound(sr=22050), sr), abs=0.1)
    assert sr <= y.shape[1] < 1.1 * sr
    assert "s of sound in" in capsys.readouterr().out
    argv = ["--preset", preset, "--bits", "16", "--rate", "8000", "--tail", "0", str(source), str(tmp_path / "b.wav")]
    assert render.main(argv) == 0
    assert read_audio(tmp_path / "b.wav")[0].shape == (1, 8000) and read_bits(tmp_path / "b.wav") == 16


def test_bits_of_a_copy_are_those_that_its_format_has(tmp_path: Path) -> None:
    assert [bits_like("x.flac", bits) for bits in (16, 24, 32, None)] == [16, 24, 24, None]
    assert [bits_like("x.wav", bits) for bits in (16, 24, 32, None)] == [16, 24, 32, None]
    assert [bits_like(f"x{suffix}", 16) for suffix in (".mp3", ".ogg", ".opus")] == [None] * 3
    assert read_bits(written(tmp_path / "x.mp3", sound())) is None
    with pytest.raises(UsageError, match="no .flac has 32 bits a sample; it has 16, 24"):
        write_audio(tmp_path / "x.flac", sound(), SR, 32)
    with pytest.raises(UsageError, match="it has none, as it is lossy"):
        write_audio(tmp_path / "x.mp3", sound(), SR, 16)


def test_dither_leaves_an_error_without_offset_that_the_signal_does_not_shape(tmp_path: Path) -> None:
    """Of ±1 step, triangular: with that of rounding a variance of 1/6 + 1/12 steps, at any level."""
    step = 2.0**-15
    for level in (0.25, 0.5, 1000.3):
        x = torch.full((1, 40000), level * step)
        written(tmp_path / "x.wav", x, 16)
        error = (read_audio(tmp_path / "x.wav")[0] - x) / step
        assert float(error.mean()) == pytest.approx(0, abs=0.02)
        assert float(error.var()) == pytest.approx(1 / 4, abs=0.02)
    whole = (sound() / step).round() * step
    written(tmp_path / "whole.wav", whole, 16)
    assert torch.equal(read_audio(tmp_path / "whole.wav")[0], whole), "what needs no rounding gets no dither"
    again = written(tmp_path / "again.flac", sound(), 16).read_bytes()
    assert again == written(tmp_path / "again.flac", sound(), 16).read_bytes()


@pytest.mark.parametrize(("name", "bits"), [("x.wav", "16"), ("x.wav", "float"), ("x.mp3", None), ("x.flac", None)])
def test_peaks_over_full_scale_are_told_whatever_the_format(
    preset: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, bits: str | None
) -> None:
    source = written(tmp_path / "in.wav", sound())
    argv = ["--preset", preset, "--output-loudness", "3", *(["--bits", bits] if bits else [])]
    assert render.main([*argv, str(source), str(tmp_path / name)]) == 0
    (record,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert "dB over full scale" in record.message and ("level" in record.message or "loudness" in record.message)
    caplog.clear()
    argv[3] = "-40"
    assert render.main([*argv, str(source), str(tmp_path / name)]) == 0 and "full scale" not in caplog.text


def test_folders_and_patterns_are_rendered_past_a_bad_file_which_is_listed(
    preset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    takes = tmp_path / "takes"
    (takes / "b").mkdir(parents=True)
    for name in ("a.wav", "b/a.flac", "c.mp3"):
        written(takes / name, sound())
    (takes / "bad.wav").write_bytes(b"no sound")
    (takes / "notes.txt").touch()
    out = takes / "done"
    assert render.main(["--preset", preset, str(takes), str(out)]) == 2
    made = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert made == {"a.wav", "b/a.flac", "c.wav"}
    captured = capsys.readouterr()
    assert [line.split()[0] for line in captured.out.splitlines()] == ["1/4", "2/4", "4/4"]
    assert f"3/4 {takes}/bad.wav: failed: {takes}/bad.wav cannot be read as audio" in captured.err
    assert captured.err.splitlines()[-1] == f"render.py: 1 of 4 recordings not rendered: {takes}/bad.wav"
    # Outputs inside the folder are no inputs of the next call, and may be replaced.
    (takes / "bad.wav").unlink()
    assert render.main(["--preset", preset, "--format", "ogg", str(takes), str(out)]) == 0
    pattern = str(takes / "*.wav")
    assert render.main(["--preset", preset, pattern, str(takes / "c.mp3"), str(tmp_path / "new")]) == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.wav", "c.wav"]


@pytest.mark.parametrize("pattern", ["**/*.*", "*", "*/d*"])
def test_recordings_of_one_name_in_several_folders_match_one_pattern(pattern: str, tmp_path: Path) -> None:
    for song in ("a", "b"):
        (tmp_path / "songs" / song).mkdir(parents=True)
        (tmp_path / "songs" / song / "dry.wav").touch()
    outputs = [target for _, target in list_outputs([tmp_path / "songs" / pattern], tmp_path / "out")]
    assert outputs == [tmp_path / "out" / song / "dry.wav" for song in ("a", "b")]


def test_no_recording_of_a_list_is_ever_overwritten(
    preset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = written(tmp_path / "one.wav", sound()), written(tmp_path / "one.mp3", sound())
    (tmp_path / "x").mkdir()
    linked = tmp_path / "x" / "one.wav"
    linked.hardlink_to(one)
    before = one.read_bytes()
    cases = [
        ([str(one), str(tmp_path)], "one.wav: is an input"),
        ([str(one), str(other), str(tmp_path)], "one.wav: is an input"),
        ([str(one), str(other), str(tmp_path / "new")], "would both be"),
        ([str(one), str(tmp_path / "x")], "is an input"),
        ([str(one), str(other), str(tmp_path / "new.wav")], "several recordings need a folder"),
        ([str(tmp_path / "*.flac"), str(tmp_path / "new")], "matches no audio file"),
        ([str(one), "--format", "mp3", str(tmp_path / "new.wav")], "is for several recordings"),
    ]
    for argv, message in cases:
        assert render.main(["--preset", preset, *argv]) == 2
        assert message in capsys.readouterr().err
    assert one.read_bytes() == before and not (tmp_path / "new").exists()


def test_options_that_no_render_has_are_refused(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    for option, value in {"--output-loudness": "off", "--tail": "61", "--mix": "2", "--bits": "8"}.items():
        assert render.main(["--preset", preset, option, value, "in.wav", "out.wav"]) == 2
        assert f"{option}" in capsys.readouterr().err


def test_what_is_not_finite_is_no_output() -> None:
    chain, values = with_values(BAND, gain=math.inf)
    with pytest.raises(UsageError, match="not finite from 0.0"):
        render_recording(chain, values, sound(), SR, lufs=None)
