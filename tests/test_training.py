"""Training, scoring and estimating from end to end on seconds of audio: files, messages and refusals."""

import errno
import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from takes import SR, take, write_takes
from torch.utils._pytree import tree_leaves

import train_analysis_net
from reknob.afx.effect import flatten
from reknob.data.audio import read_audio, resample, write_audio
from reknob.data.music import generate_music
from reknob.estimation import scoring, trainer
from reknob.estimation.estimator import Estimator, load_estimator, synthesise
from reknob.estimation.loaders import build_loaders
from reknob.estimation.scoring import score
from reknob.estimation.sound_training import train
from reknob.estimation.train import OBJECTIVES, Training
from reknob.estimation.training_run import TrainingSettings, build_estimator, open_folder, score_run
from reknob.report.training_board import TrainingBoard
from reknob.runtime.errors import UsageError
from reknob.runtime.files import read_json, read_tensors, write_tensors
from scripts import estimate

SIZE = "--seconds=1 --epoch_items=4 --valid_items=2 --test_items=3 --batch_size=2 --workers=0"
QUICK = ["--encoder=percentiles", *SIZE.split()]
NAME = "SFX_{}_AFX_{}_ENC_percentiles_LOSS_{}"


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings draw none, as that takes longer than their steps; but for `trained`, which is there before."""
    monkeypatch.setattr(TrainingBoard, "validated", lambda *_: None)
    monkeypatch.setattr(train_analysis_net, "write_results", lambda *_: None)
    monkeypatch.setattr(train_analysis_net, "write_heard", lambda *_: None)


@pytest.fixture(scope="session")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of recordings."""
    return write_takes(tmp_path_factory.mktemp("music"))


def arguments(music: Path, log_dir: Path, *more: str) -> list[str]:
    return [*QUICK, "--data=folder", f"--data_dir={music}", f"--log_dir={log_dir}", "--device=cpu", *more]


@pytest.fixture(scope="session")
def trained(music: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the title's chain after an epoch."""
    log_dir = tmp_path_factory.mktemp("logs")
    chains = ["--sfx=peq_compfull", "--afx=peq_comphalf", "--loss=mel"]
    assert train_analysis_net.main(arguments(music, log_dir, *chains, "--epochs=1")) == 0
    return log_dir / NAME.format("peq_compfull", "peq_comphalf", "mel")


def refused(capsys: pytest.CaptureFixture, argv: list[str]) -> str:
    """What the training says when it refuses: one line."""
    assert train_analysis_net.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("train_analysis_net.py: ") and error.count("\n") == 1, error
    return error


def test_a_training_leaves_an_estimator_scores_and_tensorboard(music: Path, trained: Path) -> None:
    estimator, record = load_estimator(trained / "estimator.pt")
    assert estimator.settings == {"sfx": "peq_compfull", "afx": "peq_comphalf", "encoder": "percentiles", "sr": SR}
    assert record["loss"] == "mel" and record["valid_loss"] > 0
    scores = read_json(trained / "metrics.json")
    assert list(scores) == ["no effect", "random parameters", "estimate"]
    assert all(len(values) == 3 for columns in scores.values() for values in columns.values())
    assert scores["estimate"].keys() == {"mrstft", "mse", "mel", "params"} == scores["random parameters"].keys()
    results = (trained / "results.md").read_text()
    assert "| comp.attack | " in results and "(results.png)" in results and "As estimate.py" not in results
    assert (trained / "results.png").read_bytes().startswith(b"\x89PNG")
    assert f'"group": "{music.name}"' in (trained / "results.html").read_text()
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tags = accumulator.EventAccumulator(str(trained)).Reload().Tags()
    assert {"train/loss", "valid/loss", "lr-Adam", "train/waiting", "test/mel"} <= set(tags["scalars"])
    assert tags["audio"] == ["0 - Input", "0 - Target", "0 - Estimate"] and tags["images"] == ["settings"]


def test_a_training_called_as_a_library_prints_nothing(
    music: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    sizes = {"epoch_items": 4, "valid_items": 2, "test_items": 3, "batch_size": 2, "workers": 0, "epochs": 1}
    data = {"data": "folder", "data_dir": str(music), "log_dir": tmp_path, "seconds": 1.0}
    settings = TrainingSettings(encoder="percentiles", loss="params", **sizes, **data)
    estimator, folder = build_estimator(settings), open_folder(settings)
    loaders, skipped = build_loaders(settings, settings.sizes, 15, batch_size=2, seed=0)
    assert skipped == []
    assert not train(estimator, settings, folder, loaders, torch.device("cpu"))
    scored = score_run(estimator, loaders["test"], folder, settings.seed)
    assert read_json(folder / "metrics.json") == scored.scores and scored.true.shape == (3, 15)
    assert load_estimator(folder / "estimator.pt")[1]["loss"] == "params"
    assert capsys.readouterr().out == ""
    with pytest.raises(UsageError, match="exists; --resume continues it"):
        open_folder(settings)


@pytest.mark.parametrize("loss", OBJECTIVES)
def test_the_loss_falls_on_a_batch_that_stays(loss: str) -> None:
    torch.manual_seed(0)
    estimator = Estimator(sfx="peq", afx="peq", encoder="percentiles")
    training = Training(estimator, loss)
    batch = {"dry": torch.stack([take(1.0, seed) for seed in range(4)]), "q": torch.rand(4, 15)}
    wet, optimiser = synthesise(estimator, batch), torch.optim.Adam(estimator.controller.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        losses.append(training.compute_loss(batch, wet, estimator(wet)))
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.7 * losses[0]


def test_a_seed_gives_one_training_whatever_the_number_of_workers(music: Path, trained: Path, tmp_path: Path) -> None:
    chains = ["--sfx=peq_compfull", "--afx=peq_comphalf", "--loss=mel"]
    assert train_analysis_net.main(arguments(music, tmp_path, *chains, "--epochs=1", "--workers=1")) == 0
    one, other = (read_tensors(folder / "estimator.pt")["weights"] for folder in (trained, tmp_path / trained.name))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert read_json(trained / "metrics.json") == read_json(tmp_path / trained.name / "metrics.json")


def test_a_training_that_is_stopped_and_killed_within_epochs_is_the_whole_one(
    music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    # Of the chains the one that takes least time: what goes on is the training.
    argv = ["--sfx=dist", "--afx=dist", "--loss=mel", "--coded=0.5", "--epochs=2", "--epoch_items=7"]
    stopped, whole = (tmp_path / name / NAME.format("dist", "dist", "mel") for name in ("stopped", "whole"))
    step, calls = Training.forward, iter(range(99))

    def disturbed(self: Training, batch: Callable[[], dict]) -> torch.Tensor:
        call = next(calls)
        if call == 0:
            os.kill(os.getpid(), signal.SIGINT)
        if call == 5:
            raise KeyboardInterrupt  # as a kill: what was written last is all that is left
        return step(self, batch)

    monkeypatch.setattr(trainer, "PAUSE_S", 0.0)
    monkeypatch.setattr(trainer, "WRITING", math.inf)
    monkeypatch.setattr(Training, "forward", disturbed)
    before = signal.getsignal(signal.SIGINT)
    run = arguments(music, tmp_path / "stopped", *argv)
    assert train_analysis_net.main(run) == 130 and signal.getsignal(signal.SIGINT) == before
    assert "--resume continues" in capsys.readouterr().out
    assert load_estimator(stopped / "estimator.pt")[0].settings["afx"] == "dist"
    assert train_analysis_net.main([*run, "--resume"]) == 130 and not (stopped / "metrics.json").exists()
    at = [read_tensors(stopped / "last.ckpt")[name] for name in ("epoch", "step")]
    assert at == [1, 5], "five steps of three an epoch"
    assert train_analysis_net.main([*run, "--resume"]) == 0 and next(calls) == 7, "one step was made again"
    assert train_analysis_net.main(arguments(music, tmp_path / "whole", *argv)) == 0
    # One has been resumed, and the folders differ.
    states = [read_tensors(folder / "last.ckpt") | {"settings": {}} for folder in (stopped, whole)]
    for one, other in zip(*map(tree_leaves, states), strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    assert states[0]["schedule"]["last_epoch"] == 2, "each epoch counts once for the learning rate"
    one, other = (read_tensors(folder / "estimator.pt")["weights"] for folder in (stopped, whole))
    assert all(torch.equal(one[key], other[key]) for key in other)
    assert read_json(stopped / "metrics.json") == read_json(whole / "metrics.json")


def test_a_full_disk_for_tensorboard_ends_no_training(
    music: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RecordWriter, "write", full)
    assert train_analysis_net.main(arguments(music, tmp_path, "--epochs=1")) == 0
    messages = [record.message for record in caplog.records if "TensorBoard" in record.message]
    assert messages == ["TensorBoard fails and is left out, the training goes on: No space left on device"]
    assert "Exception in thread" not in capsys.readouterr().err


def test_refusals_come_before_any_data_is_read(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    nowhere = arguments(tmp_path / "nowhere", tmp_path / "logs")
    for more, message in [
        (["--sfx=peq_compresor"], "unknown effect 'compresor' in 'peq_compresor'; did you mean 'compressor'?"),
        (["--sfx=taylor", "--afx=taylor"], "'taylor' in 'taylor' has no synthesis form; those that have: geq, peq"),
        (["--sfx=peq", "--afx=geq", "--loss=params"], "--loss params compares parameters one by one, but those of"),
        (["--batch_size=1"], "--batch_size 1: batch normalisation needs at least 2, and an epoch has --epoch_items 4"),
        (["--afx=peq_peq"], "'peq_peq' holds 'peq' twice"),
        (["--device=tpu"], "device=tpu: allowed are auto, cpu, cuda"),
        (["--resume"], "so there is nothing to resume; leave --resume out to start it"),
    ]:
        assert message in refused(capsys, [*nowhere, *more])
    assert "does not exist" in refused(capsys, nowhere)


def test_another_run_is_neither_overwritten_nor_continued(
    music: Path, trained: Path, capsys: pytest.CaptureFixture
) -> None:
    argv = arguments(music, trained.parent, "--sfx=peq_compfull", "--afx=peq_comphalf", "--epochs=2")
    assert "--resume continues it, --suffix NAME starts another run" in refused(capsys, argv)
    argv.append("--resume")
    assert "was started with other settings: lr, seed" in refused(capsys, [*argv, "--seed=1", "--lr=0.1"])
    last = trained / "last.ckpt"
    kept = last.read_bytes()
    try:
        write_tensors(last, {"some": torch.zeros(1)})
        assert "last.ckpt: not a training's state of this version" in refused(capsys, argv)
        last.write_bytes(b"no checkpoint")
        assert f"{last}: damaged" in refused(capsys, argv)
    finally:
        last.write_bytes(kept)


def test_a_loss_that_is_no_number_is_no_success(music: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert "the loss is not a number" in refused(capsys, arguments(music, tmp_path, "--epochs=3", "--lr=1e30"))


@pytest.mark.parametrize("flag", ["--seconds=0", "--seconds=nan", "--lr=-1", "--seed=-1", "--epochs=0"])
def test_impossible_numbers_are_refused_with_their_flag(flag: str, capsys: pytest.CaptureFixture) -> None:
    assert train_analysis_net.main([flag]) == 2
    assert f"argument {flag.split('=')[0]}: " in capsys.readouterr().err


def test_a_log_dir_that_cannot_be_written_is_refused(
    music: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused(capsys, arguments(music, tmp_path / "file"))


def test_weights_to_begin_with_are_those_of_the_same_estimator(
    music: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    argv = arguments(music, tmp_path, f"--init={trained / 'estimator.pt'}", "--epochs=1", "--lr=1e-12")
    assert "is of --encoder percentiles; give this" in refused(capsys, [*argv, "--encoder=time_frequency"])
    assert train_analysis_net.main([*argv, "--sfx=peq_compfull", "--afx=peq_comphalf"]) == 0
    before, after = (read_tensors(f / trained.name / "estimator.pt")["weights"] for f in (trained.parent, tmp_path))
    assert torch.allclose(before["mlp.0.weight"], after["mlp.0.weight"], atol=1e-6)


def test_an_estimator_records_the_order_of_its_chain(music: Path, tmp_path: Path) -> None:
    chains = ["--sfx=dist,peq", "--afx=dist,peq", "--loss=params"]
    assert train_analysis_net.main(arguments(music, tmp_path, *chains, "--epochs=1")) == 0
    estimator, _ = load_estimator(tmp_path / NAME.format("dist,peq", "dist,peq", "params") / "estimator.pt")
    assert [name for name, _ in estimator.analysis.parts()] == ["dist", "peq"] and estimator.same_controls


def test_of_another_chains_weights_all_but_the_last_layer_are_taken(music: Path, trained: Path, tmp_path: Path) -> None:
    argv = arguments(music, tmp_path, f"--init={trained / 'estimator.pt'}", "--epochs=1", "--lr=1e-12")
    assert train_analysis_net.main([*argv, "--precision=bf16"]) == 0
    before = read_tensors(trained / "estimator.pt")["weights"]
    after = read_tensors(tmp_path / NAME.format("peq", "peq", "mel") / "estimator.pt")["weights"]
    assert torch.allclose(before["mlp.0.weight"], after["mlp.0.weight"], atol=1e-6)
    assert {key for key in after if before[key].shape != after[key].shape} == {"mlp.8.weight", "mlp.8.bias"}


def test_one_training_samples_several_data_sets(music: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    argv = arguments(music, tmp_path)
    both = ["--data=folder,generated,folder", f"--data_dir={music},{tmp_path / 'made'},{music}", "--pieces=2"]
    assert train_analysis_net.main([*argv, *both, "--epochs=1"]) == 0
    assert (tmp_path / "made" / "train").is_dir()
    capsys.readouterr()
    message = "--data names 2 data sets and --data_dir 1 folders; give as many of each"
    assert message in refused(capsys, [*argv, "--data=folder,generated", "--suffix=x"])


def test_a_perfect_estimate_scores_zero_and_beats_both_baselines(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    estimator = Estimator(sfx="peq", afx="peq", encoder="percentiles").eval()
    q = torch.rand(2, 15)
    monkeypatch.setattr(scoring, "whole_estimates", lambda *_: (q, []))
    scores = score(estimator, [{"dry": torch.randn(2, 1, SR), "q": q}]).scores
    assert max(max(values) for values in scores["estimate"].values()) < 1e-6
    for system in ("no effect", "random parameters"):
        assert min(min(values) for values in scores[system].values()) > 1e-3


def test_estimate_prints_and_plots_parameters_and_renders_the_dry(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_audio(tmp_path / "dry.wav", take(3.0), SR)
    write_audio(tmp_path / "wet.ogg", resample(take(3.0), SR, 48000).expand(2, -1), 48000)
    out = {name: str(tmp_path / f"out.{name}") for name in ("json", "png", "wav")}
    argv = [str(tmp_path / "wet.ogg"), "--checkpoint", str(trained / "estimator.pt")]
    argv += ["--dry", str(tmp_path / "dry.wav")]
    assert estimate.main([*argv, "--json", out["json"], "--figure", out["png"], "--output", out["wav"]]) == 0
    printed = capsys.readouterr().out
    assert "peq.low_shelf.freq" in printed and "comp.attack" in printed and "dry with the estimate" in printed
    record = json.loads(Path(out["json"]).read_text())
    (settings,) = record["estimates"].values()
    assert len(settings) == 21
    assert all(s["low"] is s["high"] is None for s in settings.values()), "one window has no interval"
    assert 100 <= settings["peq.peak1.freq"]["value"] <= 2000 and settings["peq.peak1.freq"]["unit"] == "Hz"
    assert Path(out["png"]).read_bytes().startswith(b"\x89PNG")
    assert read_audio(out["wav"])[0].shape == (1, 3 * SR)


def test_an_estimate_is_applied_to_another_recording(trained: Path, tmp_path: Path) -> None:
    write_audio(tmp_path / "song.wav", take(2.0), SR)
    write_audio(tmp_path / "other.wav", take(2.5, 1).expand(2, -1), SR)
    argv = [str(tmp_path / "song.wav"), "--checkpoint", str(trained / "estimator.pt")]
    assert estimate.main([*argv, "--apply", str(tmp_path / "other.wav"), "--output", str(tmp_path / "y.flac")]) == 0
    y, sr = read_audio(tmp_path / "y.flac")
    assert y.shape == (2, round(2.5 * SR)) and y.isfinite().all() and y.abs().max() > 0.01


@pytest.mark.parametrize(
    ("name", "message"),
    [("nothing.wav", "does not exist"), ("silence.wav", "silent: it peaks"), ("text.wav", "cannot be read as audio")],
)
def test_estimate_refuses_silence_and_files_without_audio(
    name: str, message: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_audio(tmp_path / "silence.wav", torch.zeros(1, SR), SR)
    (tmp_path / "text.wav").write_text("no sound")
    assert estimate.main([str(tmp_path / name), "--checkpoint", str(trained / "estimator.pt")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("content", [{"weights": {}}, {"settings": {"sfx": "peq"}}])
def test_a_file_that_is_no_estimator_is_refused(content: dict, tmp_path: Path) -> None:
    write_tensors(tmp_path / "x.pt", content)
    with pytest.raises(ValueError, match="x.pt: not an estimator; give a file that train_analysis_net.py wrote"):
        load_estimator(tmp_path / "x.pt")


def test_weights_of_another_encoder_are_refused(trained: Path, tmp_path: Path) -> None:
    content = read_tensors(trained / "estimator.pt")
    content["settings"]["encoder"] = "time_frequency"
    write_tensors(tmp_path / "x.pt", content)
    with pytest.raises(ValueError, match="x.pt: its weights are not those of its settings"):
        load_estimator(tmp_path / "x.pt")


def test_windows_of_a_long_recording_are_estimated_one_by_one(trained: Path) -> None:
    estimator, _ = load_estimator(trained / "estimator.pt")
    x = take(3.0)
    x[0, : 2 * SR] = 0
    q = estimator.estimate_windows(x, seconds=1.0)
    assert q.shape == (2, 21)  # of five windows that overlap by half, three are silent
    assert torch.allclose(q[1], estimator(x[None, :, 2 * SR :])[0], atol=1e-5)
    assert set(flatten(estimator.analysis.from_unit(q))) == set(estimator.analysis.controls())


def test_what_cannot_be_written_is_refused_before_the_estimate(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for argv, message in [
        (["--json", str(tmp_path / "no" / "x.json")], "there is no folder"),
        (["--apply", "y.wav", "--output", "x.doc"], "its suffix must be one of .wav"),
        (["--apply", "y.wav"], "--apply needs --output"),
        (["--output", "x.wav"], "--output needs --dry or --apply"),
    ]:
        assert estimate.main(["song.wav", *argv]) == 2
        assert message in capsys.readouterr().err


def test_estimate_says_of_noise_that_it_is_none_of_its_business(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    noise = 0.1 * torch.randn(1, 3 * SR, generator=torch.Generator().manual_seed(0))
    music = torch.from_numpy(generate_music(0, 3.0, SR))
    for name, sound, is_noise in (("noise", noise, True), ("music", music, False)):
        write_audio(tmp_path / f"{name}.wav", sound, SR)
        assert estimate.main([str(tmp_path / f"{name}.wav"), "--checkpoint", str(trained / "estimator.pt")]) == 0
        assert ("this is steady noise, not music" in capsys.readouterr().out) == is_noise
