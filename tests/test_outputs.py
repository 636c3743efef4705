"""No input is ever overwritten, and what cannot be written is found before any work."""

import os
from pathlib import Path

import pytest
import torch
from takes import SR, take

from reknob.data.audio import write_audio
from reknob.runtime.errors import UsageError
from reknob.runtime.files import check_output, user_path
from scripts import estimate, make_pairs, play, render, train_on_statistics, train_proxy

OWN = str(Path(__file__).parents[1] / "presets" / "own")


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of one recording: as it is, otherwise spelt, linked, and linked hard."""
    write_audio(tmp_path / "take.wav", take(1.0), SR)
    (tmp_path / "folder").mkdir()
    os.symlink("take.wav", tmp_path / "link.wav")
    os.link(tmp_path / "take.wav", tmp_path / "hard.wav")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    links = ["link.wav", "hard.wav"]
    return ["take.wav", "./take.wav", "folder/../take.wav", str(tmp_path / "take.wav"), "~/take.wav", *links]


def refusal(capsys: pytest.CaptureFixture, status: int) -> str:
    error = capsys.readouterr().err
    assert status == 2 and error.count("\n") == 1, error
    return error


def test_an_output_that_is_an_input_is_refused_under_any_name(
    names: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (render, play):
        monkeypatch.setattr(module, "load_chain", lambda **_: pytest.fail("began to work"))
    monkeypatch.setattr(estimate, "load_estimator", lambda *_: pytest.fail("began to work"))
    before = Path("take.wav").read_bytes()
    write_audio("other.wav", take(1.0), SR)
    for name in names:
        runs = [
            render.main(["--preset", OWN, "take.wav", name]),
            play.main(["--preset", OWN, "take.wav", name]),
            estimate.main(["take.wav", "--dry", "other.wav", "--output", name]),
            estimate.main(["other.wav", "--apply", "take.wav", "--output", name]),
        ]
        assert runs == [2] * 4
        assert capsys.readouterr().err.count("take.wav, which would be lost; give another name") == 4
    argv = ["other.wav", "--json", "take.wav", "--checkpoint", "link.wav"]
    assert "is an input" in refusal(capsys, estimate.main(argv))
    assert Path("take.wav").read_bytes() == before


def test_a_file_of_an_input_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "info.json").touch()
    with pytest.raises(UsageError, match="is an input"):
        check_output(tmp_path / "set" / "info.json", [tmp_path / "set"])
    assert check_output(tmp_path / "set" / "scores.csv", [tmp_path / "set", None]).name == "scores.csv"


def test_two_outputs_of_one_name_are_refused(names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["take.wav", "--dry", "hard.wav", "--output", "new.wav", "--json", "folder/../new.wav"]
    assert "is an input, new.wav" in refusal(capsys, estimate.main(argv))


def test_outputs_that_cannot_be_written_are_told(names: list[str], tmp_path: Path) -> None:
    assert check_output("~/new.wav") == tmp_path / "new.wav"
    assert check_output("a/b/new.wav", new_folder=True) == Path("a/b/new.wav") and not Path("a").exists()
    wrong = {
        "folder": "is a folder; give a file to write",
        ".": "is a folder",
        "take.wav/x.wav": "take.wav is no folder",
        "a/b/new.wav": "there is no folder a/b",
        "/dev/null": "is a pipe, a socket or a device; give a file",
        "\0": "no path that a file can have",
    }
    for path, message in wrong.items():
        with pytest.raises(UsageError, match=message):
            check_output(path)
    with pytest.raises(UsageError, match="take.wav: exists; give another name, or --overwrite to replace it"):
        check_output("take.wav", overwrite=False)
    with pytest.raises(UsageError, match="take.wav is no folder"):
        check_output("take.wav/a/x.wav", new_folder=True)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="is read-only"):
        check_output(tmp_path / "x.wav")


def test_pipes_and_missing_homes_are_no_paths(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refused = {tmp_path / "pipe": "is a pipe, a socket or a device", "~nosuchuser/x": "no such home folder"}
    for path, message in refused.items():
        with pytest.raises(UsageError, match=message):
            user_path(path)


def test_estimators_and_weights_are_replaced_when_that_is_asked_for_alone(
    names: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_on_statistics, "build_objective", lambda *_: pytest.fail("began to work"))
    monkeypatch.setattr(train_proxy, "load_pieces", lambda *_: pytest.fail("began to work"))
    Path("mine.pt").write_text("kept")
    Path("card.md").write_text("kept")
    assert "--overwrite to replace it" in refusal(capsys, train_on_statistics.main(["--out=mine.pt"]))
    assert "--overwrite to replace it" in refusal(capsys, train_proxy.main(["--out=mine.pt"]))
    assert "card.md: exists" in refusal(capsys, train_proxy.main(["--out=card.pt"]))
    argv = ["--out=mine.pt", "--init=mine.pt", "--overwrite"]
    assert "is an input" in refusal(capsys, train_on_statistics.main(argv))
    for program, argv in ((train_on_statistics, ["--out=mine.pt", "--overwrite"]), (train_proxy, ["--out=a.pt"])):
        with pytest.raises(pytest.fail.Exception, match="began to work"):
            program.main(argv)


def test_what_estimate_lacks_is_found_before_it_listens(
    names: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "load_estimator", lambda *_: pytest.fail("began to work"))
    cases = {
        ("--dry", "missing.wav"): "missing.wav does not exist",
        ("--apply", "missing.wav", "--output", "x.wav"): "missing.wav does not exist",
        ("--figure", "x.doc"): "--figure x.doc: its suffix must be one of .png, .svg, .pdf",
        ("--figure", "no/x.png"): "there is no folder no",
    }
    for argv, message in cases.items():
        assert message in refusal(capsys, estimate.main(["take.wav", *argv]))


def test_a_home_folder_is_meant_by_a_tilde(names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert render.main(["--preset", OWN, "~/take.wav", "~/new/out.wav"]) == 0 and Path("new/out.wav").exists()
    assert make_pairs.main(["~/pairs", "--count=1", "--seconds=1"]) == 0 and Path("pairs/voice_00/wet.flac").exists()


def test_an_interrupted_render_leaves_nothing(names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> torch.Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(render, "render_recording", interrupted)
    before = sorted(Path().iterdir())
    assert render.main(["--preset", OWN, "take.wav", "out.wav"]) == 130 and sorted(Path().iterdir()) == before
