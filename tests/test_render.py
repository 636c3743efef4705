"""render.py from end to end: runs, values and presets applied to a take, and what it refuses."""

import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from measures import relative_rms, rms
from takes import SMALL, SR, mixed, take, write_pair
from torch import Tensor

import main
from reknob.afx.registry import build
from reknob.data.audio import loudness, normalise_loudness, read_audio, write_audio
from reknob.formats.preset_document import read_document, write_document
from reknob.formats.presets import Preset, write_presets
from reknob.formats.runs import load_run
from reknob.runtime.files import read_json, read_tensors
from scripts import render


def sound(path: Path) -> Tensor:
    return read_audio(path)[0]


def rendered(tmp_path: Path, *argv: str) -> Tensor:
    """What render.py makes of the take of a fixture's pair, at the chain's own level and in the take's length."""
    assert render.main(["--output-loudness", "chain", "--tail", "0", *argv, str(tmp_path / "out.wav")]) == 0
    x = sound(tmp_path / "out.wav")
    assert x.shape[0] == 2 and x.isfinite().all()
    return x


def take_of(run: Path) -> str:
    return str(run.parents[2] / "take.wav")


def test_a_run_is_applied_as_it_was_fitted(fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = rendered(tmp_path, "--run", str(fitted), take_of(fitted))
    gain = 10 ** (read_json(fitted / "meta.json")["audio_gain_db"] / 20)
    # As of 16 bits and dither: the error is half a step.
    assert rms(sound(fitted / "fitted.flac") - gain * expected) == pytest.approx(0.5 * 2**-15, rel=0.05)
    assert "out.wav: 3.0 s of sound in " in capsys.readouterr().out
    config = str(fitted / "config.yaml")
    values = ["--values", str(fitted / "parametrised.pth"), "--fx-config", config]
    assert relative_rms(rendered(tmp_path, *values, take_of(fitted)), expected) < 1e-4
    softer = rendered(tmp_path, "--run", str(fitted), "--loudness", "-38", take_of(fitted))
    assert loudness(softer, SR) < loudness(expected, SR) - 15


def test_the_document_of_a_run_renders_as_its_run(fitted: Path, tmp_path: Path) -> None:
    path = fitted / "preset.json"
    document, run = read_document(path), load_run(fitted)
    assert all(torch.equal(document.raws[name], run.raws[name]) for name in document.raws)
    assert set(document.provenance["inputs"]) == {"dry", "wet"} and document.losses["steps"] == 3
    digest = hashlib.sha256(Path(take_of(fitted)).read_bytes()).hexdigest()
    assert document.provenance["inputs"]["dry"] == {"file": "take.wav", "sha256": digest}
    expected = rendered(tmp_path, "--run", str(fitted), take_of(fitted))
    preset = ["--preset", str(path), take_of(fitted)]
    assert relative_rms(rendered(tmp_path, *preset), expected) < 1e-5
    louder = rendered(tmp_path, "--set", "comp.makeup=6", *preset)
    gain = 10 ** ((6 - float(document.values["comp.makeup"])) / 20)
    assert relative_rms(louder, gain * expected) < 1e-4
    # With nothing left of it, what remains is the input, through a low- and a high-pass at the ends of their ranges.
    none = rendered(tmp_path, "--amount", "0", *preset)
    x = normalise_loudness(sound(Path(take_of(fitted))), SR, -18.0).expand(1, 2, -1)
    passes = build({"low": {"effect": "low_pass"}, "high": {"effect": "high_pass"}}, SR)
    open_ends = {"low": {"freq": 18000.0, "Q": 0.707}, "high": {"freq": 16.0, "Q": 0.707}}
    assert relative_rms(none, passes(x, **open_ends)[0]) < 1e-4
    path = tmp_path / "quiet.json"
    write_document(path, replace(document, lufs=-38.0))
    quiet = rendered(tmp_path, "--preset", str(path), take_of(fitted))
    assert relative_rms(quiet, rendered(tmp_path, "--loudness=-38", *preset)) < 1e-6


def test_a_fit_starts_from_a_document_which_is_its_chain_too(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fitted / "preset.json"
    argv = [*write_pair(tmp_path), *SMALL, "epochs=1", f"start={path}", f"model={path}"]
    assert main.main(argv) == 0
    before = json.loads((fitted / "meta.json").read_text())["losses"]
    (first,) = json.loads((tmp_path / "logs" / "song" / "run_0" / "meta.json").read_text())["losses"]
    assert first == pytest.approx(min(before), rel=1e-4)
    (tmp_path / "other.json").write_text(path.read_text().replace('"reknob-preset/1"', '"reknob-preset/7"'))
    assert main.main([*argv[:-2], f"start={tmp_path / 'other.json'}"]) == 2
    assert "has the format 'reknob-preset/7'" in capsys.readouterr().err


def test_the_level_of_the_input_is_kept_where_that_is_asked_for(fitted: Path, tmp_path: Path) -> None:
    asis = rendered(tmp_path, "--run", str(fitted), "--loudness", "off", take_of(fitted))
    level = str(loudness(sound(Path(take_of(fitted))), SR))
    assert relative_rms(asis, rendered(tmp_path, "--run", str(fitted), f"--loudness={level}", take_of(fitted))) < 1e-4


def test_delay_and_reverb_can_be_muted(fitted: Path, tmp_path: Path) -> None:
    run = ["--run", str(fitted), take_of(fitted)]
    whole, direct = rendered(tmp_path, *run), rendered(tmp_path, "--no-delay", "--no-reverb", *run)
    only_delay, only_reverb = rendered(tmp_path, "--no-reverb", *run), rendered(tmp_path, "--no-delay", *run)
    ratio = float(direct[1] @ direct[0] / (direct[0] @ direct[0]))
    assert relative_rms(direct[1], ratio * direct[0]) < 1e-6, "a pan alone"
    delay_ms = float(read_tensors(fitted / "parametrised.pth")["sends.delay.delay"])
    before = int((delay_ms / 1000 - 0.01) * SR)
    assert relative_rms(only_delay[:, :before], direct[:, :before]) < 1e-2
    assert relative_rms(only_delay, direct) > 0.1
    assert 1e-4 < relative_rms(only_reverb, direct) < relative_rms(whole, direct)


def test_the_real_time_form_has_the_same_direct_sound_and_as_much_around_it(fitted: Path, tmp_path: Path) -> None:
    run = ["--run", str(fitted), take_of(fitted)]
    whole, realtime = rendered(tmp_path, *run), rendered(tmp_path, "--realtime", *run)
    mute = ["--no-delay", "--no-reverb"]
    direct = rendered(tmp_path, *mute, *run)
    # Its first echo has not passed the filter yet, so that of noise more is left.
    assert 1.0 < rms(realtime - direct) / rms(whole - direct) < 2.0
    assert relative_rms(rendered(tmp_path, *mute, "--realtime", *run), direct) < 1e-5


def test_a_row_of_a_preset_set_is_applied(fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = load_run(fitted)
    effect = build(run.config, SR)
    louder = run.raws | {"comp.makeup": run.raws["comp.makeup"] + 6.0}
    rows = [Preset(i, f"/s/{i}.wav", f"/w/{i}.wav", 0, raws) for i, raws in enumerate((run.raws, louder))]
    write_presets(tmp_path / "set", rows, effect, chain=run.config, rejected={})
    preset = ["--preset", str(tmp_path / "set")]
    first = rendered(tmp_path, *preset, take_of(fitted))
    assert relative_rms(first, rendered(tmp_path, "--run", str(fitted), take_of(fitted))) < 1e-5
    second = rendered(tmp_path, *preset, "--row", "1", take_of(fitted))
    assert relative_rms(second, first * 10 ** (6 / 20)) < 1e-5
    for row in ("2", "-1"):
        assert refusal_of_render(capsys, [*preset, "--row", row, take_of(fitted), "out.wav"]).endswith(
            f"row {row}: {tmp_path}/set has rows 0 to 1"
        )
    for source in (["--run", str(fitted)], ["--preset", str(fitted / "preset.json")]):
        assert refusal_of_render(capsys, [*source, "--row", "1", take_of(fitted), "out.wav"]).endswith(
            f"--row 1: {source[1]} is no preset set, whose rows have numbers; leave --row out"
        )
    (tmp_path / "set" / "raw_params.npy").write_bytes(b"numbers")
    assert "raw_params.npy: not an array of numbers" in refusal_of_render(capsys, [*preset, take_of(fitted), "out.wav"])


def test_stereo_at_other_rates_in_other_formats_is_rendered(
    fitted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for sr, name in ((22050, "in.flac"), (48000, "in.ogg"), (37800, "in.wav")):
        write_audio(tmp_path / name, mixed(take(1.0))[:, : sr // 2].repeat(1, 2), sr)
        with caplog.at_level(logging.INFO):
            y = rendered(tmp_path, "--run", str(fitted), str(tmp_path / name))
        assert y.shape[-1] == sr // 2 * 2
        assert f"{name}: resampled from {sr} to {SR} Hz" in caplog.text and "2 channels averaged to mono" in caplog.text
    assert render.main(["--run", str(fitted), str(tmp_path / "in.wav"), str(tmp_path / "new" / "out.flac")]) == 0
    assert read_audio(tmp_path / "new" / "out.flac")[0].shape[0] == 2


def refusal_of_render(capsys: pytest.CaptureFixture, argv: list[str]) -> str:
    capsys.readouterr()
    assert render.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("render.py: ") and error.count("\n") == 1, error
    return error.strip()


def test_what_cannot_be_rendered_is_refused_in_one_line(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = ["--run", str(fitted)], str(tmp_path / "out.wav")
    write_audio(tmp_path / "silent.wav", torch.zeros(1, SR), SR)
    write_audio(tmp_path / "scrap.wav", take(0.2), SR)
    (tmp_path / "file").touch()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.yaml").write_text("chain: {a: {effect: peak}}")
    (tmp_path / "broken" / "checkpoint.ckpt").write_bytes(b"zip")
    (tmp_path / "list.json").write_text(json.dumps([]))
    cases = [
        ([*run, "missing.wav", out], "missing.wav does not exist: give the path of an audio file"),
        ([*run, str(tmp_path / "silent.wav"), out], "silent.wav: silent (nothing above -70 LUFS)"),
        ([*run, str(tmp_path / "scrap.wav"), out], "scrap.wav: 0.200 s is too short to measure loudness"),
        ([*run, take_of(fitted), str(tmp_path / "out.m4a")], "out.m4a: unknown audio suffix '.m4a'; known: .wav"),
        ([*run, take_of(fitted), str(tmp_path / "file" / "out.wav")], "file is no folder; choose another"),
        (["--run", "nowhere", take_of(fitted), out], "nowhere: there is no such run folder; give <log_dir>/"),
        (["--run", str(fitted.parent), take_of(fitted), out], f"as it has no config.yaml; give {fitted}"),
        (["--run", str(tmp_path / "broken"), take_of(fitted), out], "checkpoint.ckpt: damaged, or not a file of"),
        (["--preset", "nowhere", take_of(fitted), out], "nowhere: does not exist; give the folder of a preset set"),
        (["--preset", str(tmp_path / "list.json"), take_of(fitted), out], "list.json: holds a list, not names"),
        (["--values", "nowhere.pth", take_of(fitted), out], "nowhere.pth: no such file"),
        (["--values", str(tmp_path / "file"), take_of(fitted), out], "file: damaged, or not a file of tensors alone"),
    ]
    for argv, message in cases:
        assert message in refusal_of_render(capsys, argv)
    for value in ("loud", "nan"):
        assert render.main([*run, "--loudness", value, take_of(fitted), out]) == 2
        assert f"{value}: give a number of LUFS, or off" in capsys.readouterr().err
    assert not (tmp_path / "out.wav").exists()


def test_a_format_that_cannot_be_written_is_refused_before_any_work(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "read_audio", lambda path: pytest.fail("read the input first"))
    assert render.main(["--run", str(fitted), take_of(fitted), str(tmp_path / "out.m4a")]) == 2
    assert "unknown audio suffix '.m4a'" in capsys.readouterr().err
