"""estimate.py on recordings from a desk: band edges, channels that cancel, scraps, and a --dry that is none."""

import json
import math
import random
from pathlib import Path

import pytest
import torch
from scipy.signal import butter, sosfiltfilt
from torch import Tensor

from reknob.data.audio import resample, write_audio
from reknob.data.bandwidth import band_edge, band_limit
from reknob.data.music import generate_music
from reknob.estimation.comparison import render_at_rms, score_estimate
from reknob.estimation.estimate import as_record, estimate_recording
from reknob.estimation.estimator import Estimator, load_estimator, to_mono
from reknob.estimation.judgement import distance
from reknob.runtime.errors import UsageError
from reknob.runtime.files import read_tensors, write_tensors
from scripts import estimate

SR = 44100
PEQ = Path(__file__).parents[1] / "checkpoints" / "peq.pt"


@pytest.fixture(scope="module")
def estimator() -> Estimator:
    """An estimator without a section on certainty, as older files are."""
    estimator = load_estimator(PEQ)[0]
    estimator.calibration = None
    return estimator


@pytest.fixture(scope="module")
def older(estimator: Estimator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its file."""
    path = tmp_path_factory.mktemp("older") / "peq.pt"
    estimator.save(path)
    return path


@pytest.fixture(scope="module")
def music() -> Tensor:
    """16 s (1, T) of a piece that reaches half the sample rate."""
    x = torch.from_numpy(generate_music(3, 16.0, SR)).reshape(1, -1)
    return x + 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) * x.abs()


def low_passed(x: Tensor, freq: float) -> Tensor:
    filtered = sosfiltfilt(butter(16, freq, fs=SR, output="sos"), x.double().numpy(), axis=1)
    return torch.from_numpy(filtered.copy()).float()


def run(capsys: pytest.CaptureFixture, *argv: object) -> tuple[int, str]:
    """Exit status, and what was printed, errors too."""
    status = estimate.main([str(each) for each in argv])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def test_a_full_band_has_nothing_left_out(estimator: Estimator, music: torch.Tensor) -> None:
    estimated = estimate_recording(estimator, music, SR)
    assert (estimated.windows, estimated.reasons, estimated.remarks) == (2, {}, [])
    assert all(s["low"] <= s["value"] <= s["high"] for s in as_record(estimator, estimated).values())


@pytest.mark.parametrize("kind", ["16 kHz file", "low-passed"])
def test_no_shelf_is_made_of_the_end_of_the_band(estimator: Estimator, music: Tensor, kind: str) -> None:
    x, sr = (resample(music, SR, 16000), 16000) if kind == "16 kHz file" else (low_passed(music, 8000), SR)
    estimated = estimate_recording(estimator, x, sr)
    (remark,) = estimated.remarks
    assert remark.startswith(("the recording ends at 7.", "the recording ends at 8."))
    record = as_record(estimator, estimated)
    for name in ("freq", "gain", "Q"):
        shelf = record[f"peq.high_shelf.{name}"]
        assert shelf["value"] is shelf["low"] is shelf["high"] is None
        assert shelf["note"] == "not estimated: above the recording's highest frequency"
    assert record["peq.peak1.gain"]["value"] is not None
    values = estimator.analysis.from_unit(estimated.q)["peq"]["high_shelf"]
    assert float(values["gain"]) == pytest.approx(0.0, abs=1e-5)
    everywhere = estimate_recording(estimator, low_passed(music, 3000), SR)
    assert {name.split(".")[1] for name in everywhere.reasons} == {"peak3", "high_shelf"}


def test_channels_that_cancel_are_estimated_from_one(estimator: Estimator, music: Tensor) -> None:
    short = music[:, : 2 * SR]
    alone = estimate_recording(estimator, short, SR)
    for x, channel in ((torch.cat([short, -short]), 1), (torch.cat([-0.97 * short, short]), 2)):
        estimated = estimate_recording(estimator, x, SR)
        (remark,) = estimated.remarks[:1]
        assert f"channel {channel} alone was used" in remark and "opposite polarity" in remark
        torch.testing.assert_close(estimated.q, alone.q, rtol=0, atol=2e-2)
    for other in (music, music.roll(20000, 1), torch.zeros_like(music)):
        assert to_mono(torch.cat([music, other]))[1] == ""


@pytest.mark.parametrize("seconds", [0.5, 10.001])
def test_one_window_has_no_interval(estimator: Estimator, music: torch.Tensor, seconds: float) -> None:
    estimated = estimate_recording(estimator, music[:, : round(seconds * SR)], SR)
    assert estimated.windows == 1 and estimated.interval is None
    assert estimated.remarks[0].startswith(f"{seconds:.2f} s are one window: too little for an interval")
    assert all(s["low"] is s["high"] is None for s in as_record(estimator, estimated).values())


def test_a_recording_whose_other_windows_are_silent_says_so(estimator: Estimator, music: torch.Tensor) -> None:
    mostly_silent = torch.cat([music[:, : 4 * SR], torch.zeros(1, 26 * SR)], 1)
    estimated = estimate_recording(estimator, mostly_silent, SR)
    assert estimated.windows == 1 and estimated.remarks[0].startswith("all windows but one are silent: too little")


def test_a_recording_is_compared_up_to_its_band_edge(music: Tensor) -> None:
    clipping = Estimator(sfx="dist", afx="dist", encoder="percentiles").eval()
    q, dry = torch.tensor([[0.9, 0.3, 1.0]]), band_limit(music[:, : 3 * SR], SR, 7000.0)
    with torch.no_grad():
        wet = band_limit(clipping.render(dry[None], q)[0], SR, 7000.0)
    scores = score_estimate(clipping, q, dry, wet)
    # Harmonics above 7 kHz, of which wet has none, would bring the estimate to more than 1.
    assert scores["dry with the estimate"]["mel"] < 0.05 < 0.2 < scores["dry"]["mel"]
    assert float(distance(clipping, dry[None], wet[None], [7000.0])) == pytest.approx(scores["dry"]["mel"], abs=0.05)
    ends = [band_edge(render_at_rms(clipping, q, dry, edge), SR) for edge in (7000.0, math.inf)]
    assert ends[0] < 7300 < ends[1]


def test_estimators_in_a_figure_have_names_of_their_own() -> None:
    assert estimate.labels_of(["a/peq.pt", "runs/x/estimator.pt"]) == {"a/peq.pt": "peq", "runs/x/estimator.pt": "x"}
    for alike in (["a/peq.pt", "b/peq.pt"], ["estimator.pt"]):
        assert list(estimate.labels_of(alike).values()) == alike


@pytest.mark.parametrize(("seconds", "windows"), [(1.0, 1), (1.0001, 1), (1.24, 1), (1.26, 2), (1.5, 2), (2.0, 3)])
def test_windows_that_overlap_nearly_wholly_count_once(
    estimator: Estimator, music: Tensor, seconds: float, windows: int
) -> None:
    assert len(estimator.estimate_windows(music[:, : round(seconds * SR)], seconds=1.0)) == windows


def test_a_scrap_is_reported_and_written_without_an_interval(
    tmp_path: Path, music: torch.Tensor, older: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_audio(tmp_path / "x.wav", music[:, : SR // 2], SR)
    status, printed = run(capsys, tmp_path / "x.wav", "--json", tmp_path / "x.json", "--checkpoint", older)
    assert status == 0 and "1 window\n" in printed and "0.50 s are one window" in printed
    record = json.loads((tmp_path / "x.json").read_text())
    assert "0.50 s are one window" in record["remarks"][0]
    (settings,) = record["estimates"].values()
    assert {(s["low"], s["high"]) for s in settings.values()} == {(None, None)}


@pytest.mark.parametrize("samples", [1, 100, 2000])
def test_less_than_an_encoder_takes_is_refused(
    tmp_path: Path, music: Tensor, capsys: pytest.CaptureFixture[str], samples: int
) -> None:
    write_audio(tmp_path / "x.wav", music[:, SR : SR + samples], SR)
    status, printed = run(capsys, tmp_path / "x.wav")
    assert status == 2 and printed.count("\n") == 1, printed


def test_a_dry_that_is_the_input_or_another_song_is_refused(
    tmp_path: Path, music: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    write_audio(tmp_path / "wet.wav", music, SR)
    write_audio(tmp_path / "quiet.wav", -0.1 * music, SR)
    write_audio(tmp_path / "other.wav", torch.from_numpy(generate_music(9, 16.0, SR)).reshape(1, -1), SR)
    for name, message in (("wet", "same sound"), ("quiet", "same sound"), ("other", "seem unrelated")):
        status, printed = run(capsys, tmp_path / "wet.wav", "--dry", tmp_path / f"{name}.wav")
        assert status == 2 and message in printed and printed.count("\n") == 1, printed


def test_an_estimate_that_is_worse_than_none_is_reported(
    tmp_path: Path, music: torch.Tensor, older: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    music = music[:, : 4 * SR]
    write_audio(tmp_path / "dry.wav", music, SR)
    # Hardly processed: any estimate leads away.
    write_audio(tmp_path / "wet.wav", music + 0.003 * music.abs().max() * torch.randn(music.shape), SR)
    status, printed = run(capsys, tmp_path / "wet.wav", "--dry", tmp_path / "dry.wav", "--checkpoint", older)
    assert status == 0 and "the estimate does not help: by most metrics" in printed


def test_outputs_that_a_format_does_not_hold_are_refused_before_the_estimate(
    tmp_path: Path, music: Tensor, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("it was estimated")

    monkeypatch.setattr(estimate, "estimate_recording", fail)
    monkeypatch.setattr(
        estimate, "check_audio_output", lambda path, sr, channels: (_ for _ in ()).throw(UsageError(f"{path} no"))
    )
    for name in ("a", "b"):
        write_audio(tmp_path / f"{name}.wav", music, SR)
    argv = [tmp_path / "a.wav", "--apply", tmp_path / "b.wav", "--output", tmp_path / "c.mp3"]
    status, printed = run(capsys, *argv)
    assert status == 2 and "c.mp3 no" in printed


BROKEN_SETTINGS = [
    {"sfx": 5}, {"sfx": None}, {"sfx": ["peq"]}, {"afx": {}}, {"encoder": 1.5}, {"encoder": "nope"}, {"afx": "peq_"},
    {"sr": "44100"}, {"sr": 44100.0}, {"sr": True}, {"sr": 0}, {"sr": -1}, {"sr": 2**40}, {"sr": None}, {"more": 1},
]  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN_SETTINGS, ids=str)
def test_settings_of_wrong_types_are_refused(tmp_path: Path, broken: dict[str, object]) -> None:
    content = read_tensors(PEQ)
    content["settings"] = content["settings"] | broken
    write_tensors(tmp_path / "x.pt", content)
    with pytest.raises(UsageError, match=r"x\.pt: ") as error:
        load_estimator(tmp_path / "x.pt")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("weights", [None, [], 5, {}, {"a": 1}, {5: torch.zeros(1)}, {"a": torch.zeros(1)}], ids=str)
def test_weights_of_wrong_types_are_refused(tmp_path: Path, weights: object) -> None:
    write_tensors(tmp_path / "x.pt", read_tensors(PEQ) | {"weights": weights})
    with pytest.raises(UsageError, match=r"x\.pt: "):
        load_estimator(tmp_path / "x.pt")


def test_weights_that_are_not_finite_are_refused_and_a_record_of_another_kind_is_empty(tmp_path: Path) -> None:
    content = read_tensors(PEQ)
    write_tensors(tmp_path / "x.pt", content | {"record": [1]})
    assert load_estimator(tmp_path / "x.pt")[1] == {}
    name = next(iter(content["weights"]))
    content["weights"][name] = content["weights"][name] * math.nan
    write_tensors(tmp_path / "x.pt", content)
    with pytest.raises(UsageError, match="not finite"):
        load_estimator(tmp_path / "x.pt")


def test_an_estimator_that_does_not_exist_is_answered_with_those_that_do(tmp_path: Path) -> None:
    for path, wrong in ((tmp_path / "peqq.pt", "does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(UsageError) as error:
            load_estimator(path)
        assert str(error.value).startswith(f"{path}: {wrong}; give the estimator.pt of a training, or one of reknob: ")
        assert "checkpoints/peq.pt, checkpoints/peq_comphalf.pt" in str(error.value)


def test_damaged_estimators_load_or_are_refused(tmp_path: Path) -> None:
    rng, raw = random.Random(0), PEQ.read_bytes()
    for _ in range(12):
        b = bytearray(raw[:200_000] if rng.random() < 0.2 else raw)
        for _ in range(rng.choice((1, 4, 64))):
            i = rng.randrange(min(len(b), rng.choice((3000, len(b)))))
            b[i] = rng.randrange(256)
        (tmp_path / "x.pt").write_bytes(b)
        refusal = ""
        try:
            load_estimator(tmp_path / "x.pt")
        except UsageError as error:
            refusal = str(error)
        assert "\n" not in refusal
