"""Pages to hear estimates on: that of one recording, and the examples of an estimator's results."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from reknob.data.audio import read_audio, resample, write_audio
from reknob.data.excerpts import Excerpts, excerpt_loader
from reknob.data.music import generate_music
from reknob.data.recordings import find_recordings
from reknob.estimation.estimator import Estimator, load_estimator, synthesise
from reknob.estimation.scoring import score
from reknob.report.page.encode import RATE
from reknob.report.page.examples import PLACES
from reknob.report.results import write_heard
from scripts import estimate

SR = 44100
DIST = Path(__file__).parents[1] / "checkpoints" / "dist.pt"


def content(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """What a page shows, and its sounds (T,), mono at RATE, by key."""
    text = path.read_text(encoding="utf-8")
    data = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    sounds = {}
    for track in data["tracks"]:
        audio = text.partition(f'id="audio-{track["key"]}">')[2].partition("</script>")[0]
        sounds[track["key"]] = soundfile.read(io.BytesIO(base64.b64decode(audio)))[0].mean(1)
    return data, sounds


def likeness(heard: np.ndarray, x: Tensor) -> float:
    """Correlation of a sound of a page with a recording (C, T) at SR."""
    y = resample(x, SR, RATE).mean(0).numpy()
    length = min(len(heard), len(y))
    return float(np.corrcoef(heard[:length], y[:length])[0, 1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """dry.wav, wet.wav, which is dry.wav clipped, and other.wav."""
    folder = tmp_path_factory.mktemp("estimates")
    estimator = load_estimator(DIST)[0]
    dry = torch.from_numpy(generate_music(3, 4.0, SR))
    with torch.no_grad():
        wet = estimator.render(dry[None], torch.tensor([[0.9, 0.5, 0.8]]))[0]
    write_audio(folder / "dry.wav", dry, SR)
    write_audio(folder / "wet.wav", wet / wet.abs().max(), SR)
    write_audio(folder / "other.wav", torch.from_numpy(generate_music(5, 2.0, SR)).expand(2, -1), SR)
    return folder


def test_a_page_plays_dry_estimate_and_input(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {name: folder / f"{name}.wav" for name in ("dry", "wet", "again")}
    argv = [str(files["wet"]), "--checkpoint", str(DIST), "--dry", str(files["dry"]), "--whole"]
    argv += ["--output", str(files["again"]), "--json", str(folder / "a.json"), "--report", str(folder / "a.html")]
    assert estimate.main(argv) == 0 and str(folder / "a.html") in capsys.readouterr().out
    data, sounds = content(folder / "a.html")
    record = json.loads((folder / "a.json").read_text())
    assert {t["key"]: t["label"] for t in data["tracks"]} == {"dry": "dry", "fitted": "estimate", "wet": "input"}
    for key, name in (("dry", "dry"), ("fitted", "again"), ("wet", "wet")):
        assert likeness(sounds[key], read_audio(files[name])[0]) > 0.98, key
    assert likeness(sounds["dry"], read_audio(files["wet"])[0]) < 0.97, "the three are not one sound"
    before, after = (each["mel"] for each in record["scores"][str(DIST)].values())
    assert data["about"]["figures"][1][0] == f"{before:.3f} → {after:.3f}" and after < before
    (group,) = data["parameters"]
    assert [row["name"] for row in group["rows"]] == list(record["estimates"][str(DIST)])
    assert all(row["low"] and row["high"] for row in group["rows"])
    assert [text.lower() for text in data["about"]["remarks"]] == [f"{text}.".lower() for text in record["remarks"]]
    assert data["preset"].startswith('{\n"format"')
    alternatives = record["alternatives"][str(DIST)]
    assert len({tuple(each.values()) for each in alternatives}) == 8
    assert all(each.keys() == record["estimates"][str(DIST)].keys() for each in alternatives)


def test_a_page_shows_the_range_of_an_equalisers_responses(folder: Path) -> None:
    assert estimate.main([str(folder / "wet.wav"), "--whole", "--report", str(folder / "d.html")]) == 0
    curve = content(folder / "d.html")[0]["curves"]["equaliser"]
    low, high = curve["range"]
    assert len(low) == len(high) == len(curve["x"]) and all(a < b for a, b in zip(low, high, strict=True))


def test_without_a_dry_recording_a_page_says_what_cannot_be_heard(folder: Path) -> None:
    argv = [str(folder / "wet.wav"), "--checkpoint", str(DIST), "--whole", "--report"]
    assert estimate.main([*argv, str(folder / "b.html")]) == 0
    data, sounds = content(folder / "b.html")
    assert [t["label"] for t in data["tracks"]] == ["effect once more", "input"]
    assert "before it was processed cannot be heard" in data["about"]["heard"]
    assert 0.5 < likeness(sounds["fitted"], read_audio(folder / "wet.wav")[0]) < 0.9999
    assert estimate.main([*argv, str(folder / "c.html"), "--apply", str(folder / "other.wav")]) == 0
    data, sounds = content(folder / "c.html")
    assert [t["label"] for t in data["tracks"]] == ["other", "other with the estimate", "input"]
    assert "another performance" in data["about"]["heard"] and data["excerpt"]["seconds"] == 2.0
    assert likeness(sounds["dry"], read_audio(folder / "other.wav")[0]) > 0.98


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["wet.wav", "--report", "page.txt"], "--report page.txt: its suffix must be one of .html"),
        (["wet.wav", "dry.wav", "--report", "page.html"], "--report: of one recording, but 2 are given"),
        (["wet.wav", "--apply", "other.wav"], "--apply needs --output FILE or --report FILE"),
    ],
)
def test_pages_that_cannot_be_written_are_refused(
    argv: list[str], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert estimate.main(argv) == 2 and message in capsys.readouterr().err


def test_examples_are_the_best_the_middle_and_the_worst(tmp_path: Path) -> None:
    for number in range(4):
        write_audio(tmp_path / f"{number}.wav", torch.from_numpy(generate_music(number, 2.0, SR)), SR)
    recordings = find_recordings("folder", tmp_path, "train", 1.0).recordings
    torch.manual_seed(0)
    estimator = Estimator(sfx="dist", afx="dist", encoder="percentiles").eval()
    excerpts = Excerpts([recordings, recordings[:1]], 3, 9, 0, seconds=1.0)
    scored = score(estimator, excerpt_loader(excerpts, 4))
    write_heard(tmp_path / "my_results.md", estimator, scored, excerpts, ["some", "one"])
    data, sounds = content(tmp_path / "my_results.html")
    assert scored.source is not None
    for source, name in enumerate(("some", "one")):
        shown = [(n, each) for n, each in enumerate(data["examples"]) if each["group"] == name]
        assert [each["title"] for _, each in shown] == list(PLACES)
        none, found = (scored.scores[system]["mel"] for system in ("no effect", "estimate"))
        members = (scored.source == source).nonzero()[:, 0].tolist()
        ranked = sorted(members, key=lambda i: found[i] - none[i])
        places = (ranked[0], ranked[round((len(ranked) - 1) / 2)], ranked[-1])
        for (number, each), at in zip(shown, places, strict=True):
            assert each["text"].startswith(f"Mel {none[at]:.3f} without an effect, {found[at]:.3f} with")
            wet = synthesise(estimator, {key: x[None] for key, x in excerpts[at].items()})[0]
            assert likeness(sounds[f"{number}-wet"], wet) > 0.97
            assert [track["key"] for track in each["tracks"]] == [f"{number}-{key}" for key in ("dry", "fitted", "wet")]
            assert list(each["curves"][0]["series"]) == ["wet", "fitted"]
    assert [each["name"] for each in data["errors"]] == estimator.synthesis.controls()
    assert data["rows"][0][0] == "no effect" and len(data["tracks"]) == 18
