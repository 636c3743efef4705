"""The program that checks a pair: its lines, its JSON, the mended pair, and its exit status."""

import json
from pathlib import Path

import pair_faults as faults
import pytest
import torch

from reknob.data.audio import read_audio, write_audio
from reknob.data.pair_files import DEMO
from scripts import check_pair

SR = 44100


@pytest.fixture
def late(tmp_path: Path) -> tuple[str, str]:
    """A dry file, and a wet one that is inverted, 500 samples late and drifts by 100 ppm."""
    dry, wet = (read_audio(DEMO / name)[0][:, : 8 * SR] for name in ("dry.flac", "wet.ogg"))
    write_audio(tmp_path / "d.wav", dry, SR)
    write_audio(tmp_path / "w.wav", faults.faster(faults.late(-wet, 500), 100), SR)
    return str(tmp_path / "d.wav"), str(tmp_path / "w.wav")


def test_findings_are_printed_and_written_and_the_mended_pair_is_good(
    late: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, report = tmp_path / "out", tmp_path / "findings.json"
    assert check_pair.main([*late, "--fix", str(out), "--json", str(report)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:4]] == ["note, lag", "note, inverted", "warning, drift", "aligned"]
    record = json.loads(report.read_text())
    assert record["polarity"] == [-1, -1] and record["drift_ppm"] == pytest.approx(100, abs=3)
    assert record["lag_samples"] == pytest.approx(500, abs=1)
    assert check_pair.main([str(out / "dry.wav"), str(out / "wet.wav")]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("a good pair: lag ") and "polarity ++, drift " in line


def test_nothing_is_overwritten(late: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dry, wet = (torch.ones(1, SR), torch.ones(2, SR))
    write_audio(tmp_path / "dry.wav", dry, SR)
    write_audio(tmp_path / "wet.wav", wet, SR)
    assert check_pair.main([*late, "--fix", str(tmp_path)]) == 2
    assert "exists; give another folder" in capsys.readouterr().err
    assert check_pair.main([str(tmp_path / "dry.wav"), late[1], "--fix", str(tmp_path)]) == 2
    assert "is an input" in capsys.readouterr().err
    assert check_pair.main([*late, "--fix", late[0]]) == 2
    shown = capsys.readouterr()
    assert shown.err.endswith(f"{late[0]} is no folder; choose another\n") and not shown.out
    assert torch.equal(read_audio(tmp_path / "dry.wav")[0], dry)


def test_a_refusal_ends_with_2_one_line_and_its_record(
    late: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wet, sr = read_audio(late[1])
    write_audio(tmp_path / "other.wav", wet.flip(1), sr)
    report = tmp_path / "findings.json"
    assert check_pair.main([late[0], str(tmp_path / "other.wav"), "--json", str(report)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("check_pair.py: ") and "seem unrelated" in error and error.count("\n") == 1
    assert json.loads(report.read_text())["findings"][-1]["severity"] == "refusal"
    assert check_pair.main([late[0], str(tmp_path / "nowhere.wav")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_help_lists_the_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_pair.main(["--help"]) == 0
    assert "channel_inverted" in capsys.readouterr().out
