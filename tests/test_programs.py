"""The programs from end to end on a few seconds of sound: what they leave, what they say, how they exit."""

import logging
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from takes import QUICK, RUN_FILES, SMALL, SR, mixed, take, write_pair

import main
from reknob.data.audio import read_audio, write_audio
from reknob.fitting import recipe, settings
from reknob.fitting.session import Song
from reknob.formats.run_audio import run_audio
from reknob.formats.runs import load_run, lock
from reknob.report.board import TensorBoardWriter
from reknob.runtime.files import read_json, read_tensors


def refused(capsys: pytest.CaptureFixture, argv: list[str]) -> str:
    """What main.py says when it refuses: one line."""
    assert main.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("main.py: ") and error.endswith("\n") and error.count("\n") == 1, error
    return error[len("main.py: ") : -1]


def test_a_fit_leaves_a_whole_run_folder(fitted: Path) -> None:
    names = {p.name for p in fitted.iterdir()}
    events = {name for name in names if name.startswith("events.out.tfevents")}
    assert len(events) == 1 and names - events == RUN_FILES
    meta = read_json(fitted / "meta.json")
    assert meta["input_path"].endswith("take.wav") and meta["target_path"].endswith("song.wav")
    assert os.path.isabs(meta["input_path"]) and os.path.isabs(meta["target_path"])
    assert meta["alignment_shift"] == 0 and meta["terminated_by"] is None and meta["undone"] == []
    assert len(meta["losses"]) == 3 and meta["losses"][2] < meta["losses"][0]
    state = read_tensors(fitted / "checkpoint.ckpt")
    assert {"global_step", "optimiser", "model", "best_model", "lowest_loss"} <= state.keys()
    assert state["global_step"] == 3 and state["lowest_loss"] == min(meta["losses"])
    values = read_tensors(fitted / "parametrised.pth")
    assert values.keys() == load_run(fitted).raws.keys()
    assert 700 < values["peak1.freq"] < 900 and 20 < values["comp.attack"] < 100
    assert list(run_audio(fitted)) == ["dry", "wet", "fitted"]
    for path, channels in zip(run_audio(fitted).values(), (1, 2, 2), strict=True):
        sound, sr = read_audio(path)
        assert sr == SR and sound.shape == (channels, 3 * SR) and sound.abs().max() < 1


def test_tensorboard_shows_losses_settings_and_sound(fitted: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    plugin_data_pb2 = pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2")
    events = accumulator.EventAccumulator(str(fitted)).Reload()
    tags = events.Tags()
    attack, delay = "values 07 comp/attack (ms)", "values 09 sends.delay/delay (ms)"
    assert {"loss/loss", "loss/mss_lr", "loss/mldr_ms", attack, delay} <= set(tags["scalars"])
    assert not [tag for tag in tags["scalars"] if "sends.reverb/" in tag], "arrays are no scalars"
    assert tags["audio"] == ["dry", "wet", "fitted"]
    losses = [(e.step, pytest.approx(e.value, rel=1e-5)) for e in events.Scalars("loss/loss")]
    assert losses == list(enumerate(read_json(fitted / "meta.json")["losses"]))
    assert events.Scalars(attack)[0].value == pytest.approx(50.0, rel=0.02)
    last = events.Scalars(attack)[-1]
    attack_ms = read_tensors(fitted / "parametrised.pth")["comp.attack"].item()
    assert last.step == 3 and last.value == pytest.approx(attack_ms)
    (lowest,) = events.Scalars("loss/lowest")
    assert lowest.step == 3 and lowest.value == pytest.approx(min(read_json(fitted / "meta.json")["losses"]))
    settings_of = accumulator.EventAccumulator(str(fitted)).Reload().PluginTagToContent("hparams")
    content = plugin_data_pb2.HParamsPluginData.FromString(settings_of["_hparams_/session_start_info"])
    hparams = content.session_start_info.hparams
    assert hparams["optimiser.method"].string_value == "adam" and hparams["epochs"].number_value == 3
    assert "dry" not in hparams


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, number: int) -> None:
    """Sends a signal to the program in the middle of a step."""
    write_step = TensorBoardWriter.step

    def interrupted(board: TensorBoardWriter, song: Song, *rest: object) -> None:
        if song.run.track.step_count - 1 == step:
            os.kill(os.getpid(), number)
        write_step(board, song, *rest)

    monkeypatch.setattr(TensorBoardWriter, "step", interrupted)


def test_an_interrupted_run_keeps_its_best_and_resumes_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = [*write_pair(tmp_path), *QUICK, "batch_size=1"]
    runs = tmp_path / "logs" / "song"
    with monkeypatch.context() as patch:
        stop_at(patch, 1, signal.SIGTERM)
        assert main.main(pair) == 130
    meta = read_json(runs / "run_0" / "meta.json")
    assert meta["terminated_by"] == "interrupted" and len(meta["losses"]) == 2
    assert RUN_FILES <= {p.name for p in (runs / "run_0").iterdir()}
    assert main.main([*pair, "resume=true"]) == 0
    assert main.main(pair) == 0
    resumed, whole = (read_tensors(runs / name / "checkpoint.ckpt") for name in ("run_0", "run_1"))
    assert resumed["losses"] == whole["losses"] and len(whole["losses"]) == 3
    for kind in ("model", "best_model"):
        assert all(torch.equal(resumed[kind][name], raw) for name, raw in whole[kind].items())
    meta = read_json(runs / "run_0" / "meta.json")
    assert meta["terminated_by"] is None and meta["losses"] == whole["losses"]
    assert main.main([*pair, "resume=true"]) == 0
    assert not (runs / "run_2").exists(), "what has ended is left alone"
    assert "song: has 3 epochs in" in capsys.readouterr().out
    assert main.main([*pair, "resume=true", "epochs=4"]) == 0
    assert len(read_json(runs / "run_1" / "meta.json")["losses"]) == 4, "what has ended goes on to more epochs"


def test_a_stop_before_the_first_step_leaves_a_run_that_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = [*write_pair(tmp_path), *QUICK, "epochs=1"]
    cut_chunks = recipe.cut_chunks

    def interrupted(*args: object) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return cut_chunks(*args)

    with monkeypatch.context() as patch:
        patch.setattr(recipe, "cut_chunks", interrupted)
        assert main.main(pair) == 130
    run = tmp_path / "logs" / "song" / "run_0"
    assert read_json(run / "meta.json")["losses"] == []
    assert main.main([*pair, "resume=true"]) == 0
    assert len(read_json(run / "meta.json")["losses"]) == 1


def test_signals_are_handled_as_before_when_the_program_has_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    refused(capsys, [*write_pair(tmp_path, dry=0 * take()), *QUICK])
    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


def test_a_run_that_is_being_written_is_not_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = [*write_pair(tmp_path), *QUICK, "epochs=1"]
    run = tmp_path / "logs" / "song" / "run_0"
    assert main.main(pair) == 0
    meta = read_json(run / "meta.json")
    assert meta["input_path"] == str(tmp_path / "take.wav") and meta["target_path"] == str(tmp_path / "song.wav")
    checkpoint = (run / "checkpoint.ckpt").read_bytes()
    with lock(run):
        capsys.readouterr()
        assert main.main([*pair, "resume=true", "epochs=2"]) == 2
        error = capsys.readouterr().err
        assert f"{run} is being written by process {os.getpid()} on " in error and "Traceback" not in error
    assert (run / "checkpoint.ckpt").read_bytes() == checkpoint
    assert main.main([*pair, "resume=true", "epochs=2"]) == 0
    assert not list(run.glob(".*")), "the lock is gone with its holder"


def test_a_damaged_or_foreign_checkpoint_is_not_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = [*write_pair(tmp_path), *QUICK]
    with monkeypatch.context() as patch:
        stop_at(patch, 0, signal.SIGINT)
        assert main.main(pair) == 130
    run = tmp_path / "logs" / "song" / "run_0"
    checkpoint, good = run / "checkpoint.ckpt", (run / "checkpoint.ckpt").read_bytes()
    capsys.readouterr()
    for content in (good[:1000], b"", b"sound"):
        checkpoint.write_bytes(content)
        assert refused(capsys, [*pair, "resume=true"]).startswith(f"{checkpoint}: damaged, or not a file of tensors")
    checkpoint.write_bytes(good)
    state = read_tensors(checkpoint)
    del state["generator"]
    torch.save(state, checkpoint)
    assert "lacks generator; it cannot be resumed, use resume=false" in refused(capsys, [*pair, "resume=true"])
    state = torch.load(checkpoint, weights_only=True) | {"generator": torch.Generator().get_state()}
    state["model"].pop("comp.attack")
    torch.save(state, checkpoint)
    assert "its checkpoint is of another fit; use resume=false" in refused(capsys, [*pair, "resume=true"])
    checkpoint.write_bytes(good)
    message = refused(capsys, [*pair, "resume=true", "optimiser.lr=0.02", "chain.peak1.Q.default=1"])
    assert message.startswith(f"{run}: was begun with other settings (chain, optimiser); use those, or resume=false")
    assert not (tmp_path / "logs" / "song" / "run_1").exists()


def test_a_folder_of_pairs_is_fitted_but_for_its_bad_pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = take()
    broken[0, 1000] = float("nan")
    for name, dry in (("a", broken), ("b", take())):
        write_audio(tmp_path / "pairs" / f"{name}_dry.wav", dry, SR)
        write_audio(tmp_path / "pairs" / f"{name}_wet.wav", mixed(take()), SR)
    write_audio(tmp_path / "pairs" / "c_dry.wav", take(), SR)
    logs = tmp_path / "logs"
    assert main.main([f"data_dir={tmp_path / 'pairs'}", f"log_dir={logs}", *QUICK]) == 2
    out, err = capsys.readouterr()
    assert [p.name for p in logs.iterdir()] == ["b"] and RUN_FILES <= {p.name for p in (logs / "b" / "run_0").iterdir()}
    assert "skipped c has 0 wet files, not one" in out
    lines = [line for line in err.splitlines() if line.startswith("main.py: ")]
    assert lines[0].startswith(f"main.py: {tmp_path}/pairs/a_dry.wav holds NaN or infinite samples")
    assert len(lines) == 1 and "1 fitted, 0 done before, 1 failed, 1 skipped" in out


def test_what_goes_wrong_for_good_in_a_fit_is_told_in_one_line_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(settings.VocalLoss):
        def weigh(self, terms: torch.Tensor) -> torch.Tensor:
            return super().weigh(terms) * float("nan")

    monkeypatch.setattr(settings, "VocalLoss", Broken)
    assert main.main([*write_pair(tmp_path), *QUICK]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("main.py: song: step 0: not finite; it breaks at the loss itself. Try a smaller")
    assert read_json(tmp_path / "logs" / "song" / "run_0" / "meta.json")["terminated_by"] == "error"


def test_a_mono_mix_at_another_rate_is_fitted_with_a_notice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    arguments = write_pair(tmp_path)
    write_audio(tmp_path / "song.wav", mixed(take()).mean(0, keepdim=True)[:, ::2], SR // 2)
    with caplog.at_level(logging.INFO):
        assert main.main([*arguments, *QUICK, "epochs=1"]) == 0
    assert "song.wav is mono: copied to both channels" in caplog.text
    assert f"song.wav: resampled from 22050 to {SR} Hz" in caplog.text


def test_bad_sound_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dry = take()
    holed = dry.clone()
    holed[0, 4410] = float("nan")
    cases = {
        "take.wav holds NaN or infinite samples, the first at 0.100 s: export it again": {"dry": holed},
        "take.wav is silent: nothing lies above -70 LUFS": {"dry": 0 * dry},
        "song is 1.00 s long, a chunk 1.5 s: set chunk_duration=1 or less": {
            "dry": dry[:, :SR],
            "wet": mixed(dry)[:, :SR],
        },
        "song.wav has 8 channels, at most 2 are allowed: export it as mono or stereo": {"wet": dry.expand(8, -1)},
        "song.wav seem unrelated: their whitened correlation is 0.0": {"wet": mixed(take(seed=1))},
        "take.wav is no mono recording: its side signal peaks": {"dry": torch.cat([dry, take(seed=1)])},
    }
    for number, (message, sounds) in enumerate(cases.items()):
        arguments = write_pair(tmp_path / str(number), **sounds)
        assert message in refused(capsys, [*arguments, *QUICK])
        assert not (tmp_path / str(number) / "logs").exists()


def test_files_that_are_no_sound_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pair(tmp_path)
    (tmp_path / "text.wav").write_text("no sound")
    (tmp_path / "nothing.wav").touch()
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 1)), SR)
    cases = {
        "missing.wav": "missing.wav does not exist: give the path of an audio file",
        "text.wav": "text.wav cannot be read as audio (Format not recognised)",
        "nothing.wav": "nothing.wav cannot be read as audio",
        "empty.wav": "empty.wav is empty: it holds no samples",
        "": "is a folder: give an audio file",
    }
    for name, message in cases.items():
        assert message in refused(capsys, [f"dry={tmp_path / name}", f"wet={tmp_path / 'song.wav'}", *QUICK])
    assert "the same file" in refused(capsys, [f"dry={tmp_path / 'song.wav'}", f"wet={tmp_path / 'song.wav'}"])


def test_wrong_settings_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = [*write_pair(tmp_path), *SMALL]
    (tmp_path / "file").touch()
    cases = {
        "epoch=3": "unknown setting 'epoch'; did you mean epochs? --help lists all",
        "epochs=many": "epochs=many: expected a whole number",
        "batch_size=0": "batch_size=0: must be above 0",
        "model=diffvoxx": "unknown model 'diffvoxx'; known: bass, compressor, diffvox",
        "dataset=medley": "dataset=medley: unknown; known: medley_vocal",
        "data_dir=x": "dataset pair takes dry and wet; given: data_dir=x",
        "wet=": f"dataset pair takes dry and wet; given: dry={tmp_path}/take.wav; add wet=…",
        "device=gpu": "device=gpu: allowed are auto, cpu, cuda",
        "chunk_overlap=2": "chunk_overlap=2 s must be at least 0 and below chunk_duration=1.5 s",
        "loss.weights=[1,2]": "2 loss weights given; give 4: mss_lr, mss_ms, mldr_lr, mldr_ms",
        "loss.mldr_rows=some": "unknown treatment of rows 'some'; known: separate, rolled",
        "chain.peak1.effect=peek": "unknown effect 'peek' in 'chain.peak1'; did you mean 'peak'? known: peak",
        "chain.peak1.freq.default=9000": "freq: the default 9000 lies outside its range; allowed: 33.0 to 5400.0",
        "chain.comp.lookahed=false": "has no option 'lookahed'; known: lookahead",
        "--config=nowhere.yaml": "nowhere.yaml: cannot be read (No such file or directory)",
        f"log_dir={tmp_path}/file": f"log_dir={tmp_path}/file: {tmp_path}/file is no folder; choose another",
    }
    for argument, message in cases.items():
        assert message in refused(capsys, [*pair, argument])
    assert not (tmp_path / "logs").exists()


def test_a_log_folder_that_cannot_be_written_is_refused_before_recordings_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recipe.Recipe, "load", lambda *_: pytest.fail("began to read"))
    (tmp_path / "file").touch()
    message = refused(capsys, [*write_pair(tmp_path), *QUICK, f"log_dir={tmp_path}/file/logs"])
    assert message == f"log_dir={tmp_path}/file/logs: {tmp_path}/file is no folder; choose another"


def test_a_message_of_a_fit_is_printed_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, root.handlers = root.handlers, []  # pytest's own, without which a program shows what is logged
    try:
        assert main.main([*write_pair(tmp_path), *QUICK, "epochs=1"]) == 0
    finally:
        root.handlers = before
    assert sum("lag" in line for line in capfd.readouterr().err.splitlines()) == 1
