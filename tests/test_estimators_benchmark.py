"""The tables of trained estimators."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import estimators
from reknob.data.audio import write_audio
from reknob.data.music import generate_music
from reknob.estimation.estimator import Estimator

SR = 44100


def test_tables_are_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    music = torch.from_numpy(generate_music(1, 12.0, SR)).float()
    for name in ("music/a.wav", "EQ/Input_1.wav", "EQ/GT_1.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_audio(tmp_path / name, music if name != "EQ/Input_1.wav" else music.diff(), SR)
    Estimator(sfx="dist", afx="dist", encoder="percentiles").save(tmp_path / "mine.pt")
    argv = f"x {tmp_path}/mine.pt --data_dir {tmp_path}/music --items 2 --seconds 2 --codec vorbis"
    groups = f"--groups song={tmp_path}/music/a.wav --scores {tmp_path}/scores.json --examples {tmp_path}/a.html"
    monkeypatch.setattr("sys.argv", [*argv.split(), *groups.split(), "--pairs", str(tmp_path / "EQ")])
    estimators.main()
    out = capsys.readouterr().out
    words = ("dist → dist", "EQ 1", "no effect", "random parameters", "mine", "as vorbis")
    assert all(word in out for word in words)
    (scores,) = json.loads((tmp_path / "scores.json").read_text())
    assert scores["group"] == "song" in out and len(scores["none"]) == len(scores["error"]) == 2
    assert '"group": "dist, song"' in (tmp_path / "a.html").read_text()
    assert scores["controls"] == ["dist.drive", "dist.offset", "dist.hardness"] and scores["held"] == []
