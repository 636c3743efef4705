"""Crash safety: one process a song, nothing lost by SIGKILL, and work that is repeated no longer than it should be."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from takes import QUICK, SR, take, write_pair

import main
from benchmarks import guard_rails, kill
from reknob.data.audio import write_audio
from reknob.fitting.reproduce import compare_losses
from reknob.formats import runs
from reknob.runtime.files import read_json, write_text
from scripts import reproduce

ROOT = Path(__file__).parents[1]


def test_a_song_that_another_process_fits_is_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*write_pair(tmp_path, take(2.0)), *QUICK]
    with runs.lock_song(tmp_path / "logs", "song", tmp_path / "song.wav"):
        assert main.main(argv) == 2
        told = capsys.readouterr().err.splitlines()
        assert told[-1].startswith(
            f"main.py: {tmp_path}/logs/song is being written by process {os.getpid()} on "
        ) and told[-1].endswith("; wait for it, or give another log_dir")
    assert list((tmp_path / "logs" / "song").iterdir()) == []


def test_songs_of_one_stem_have_a_lock_each(tmp_path: Path) -> None:
    with runs.lock_song(tmp_path, "song", tmp_path / "a" / "song.wav"):
        runs.lock_song(tmp_path, "song", tmp_path / "b" / "song.wav").release()


def refused(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    capsys.readouterr()
    assert reproduce.main([str(a) for a in argv]) == 2
    return capsys.readouterr().err


def test_a_run_is_repeated_to_the_last_bit_and_differences_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*write_pair(tmp_path, take(2.0)), *QUICK]
    assert main.main(argv) == 0
    run = tmp_path / "logs" / "song" / "run_0"
    assert list((tmp_path / "logs" / "song").iterdir()) == [run], "no lock is left"
    record = read_json(run / "meta.json")["reproduce"]
    assert record["threads"] == torch.get_num_threads() and record["inputs"]["dry"]["file"] == "take.wav"
    assert {"torch", "numba", "python"} <= record["versions"].keys() and record["seed"] == 0
    capsys.readouterr()
    assert reproduce.main([str(run), "--quiet"]) == 0
    assert capsys.readouterr().out == "identical: the losses of 3 steps, and the values\n"
    # Another recording, another version, and another loss.
    meta = read_json(run / "meta.json")
    meta["reproduce"]["versions"]["torch"] = "1.0"
    meta["losses"][1] *= 1.5
    write_text(run / "meta.json", json.dumps(meta))
    (tmp_path / "take.wav").unlink()
    assert "take.wav does not exist" in refused(capsys, run)
    write_audio(tmp_path / "moved.wav", take(2.0) + 1e-3 * torch.randn(1, 2 * SR), SR)
    assert reproduce.main([str(run), f"--dry={tmp_path / 'moved.wav'}", f"--out={tmp_path / 'again'}"]) == 2
    out, err = capsys.readouterr()
    assert f"differs: versions.torch: 1.0 -> {torch.__version__}\n" in out and "differs: inputs.dry.sha256: " in out
    assert f"repeated in {tmp_path}/again/song/run_0\n" in out
    assert "not identical: losses from step 1 of 3 on, by at most " in err and " values, most " in err
    write_audio(tmp_path / "moved.wav", 0 * take(2.0), SR)
    assert "; dry has changed since the run" in refused(capsys, run, f"--dry={tmp_path / 'moved.wav'}")


def test_losses_are_compared_to_the_last_bit() -> None:
    assert compare_losses([1.0, 2.0], [1.0, 2.0]) == (None, 0.0)
    assert compare_losses([1.0, 2.0, 4.0], [1.0, 2.5, 5.0]) == (2, pytest.approx(0.2))
    assert compare_losses([1.0, 2.0], [1.0]) == (2, 0.0)


def test_nothing_is_lost_by_kills_at_random_moments() -> None:
    """`make kill` kills 200 times, and lets writes fail. In a process of its own, as it forks."""
    argv = "-m benchmarks.kill --kills 2 --jobs harvest,fit --no-faults".split()
    single = os.environ | {kill.THREADS: "1"}  # without it, the program imports everything and starts itself anew
    done = subprocess.run([sys.executable, *argv], cwd=ROOT, env=single, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "lost: " not in done.stdout, done.stdout + done.stderr


def test_signals_that_no_recording_has_are_fitted_or_refused(tmp_path: Path) -> None:
    """`python -m benchmarks.guard_rails` takes 2000 steps."""
    cases = list(guard_rails.fits(3, ["esr"], tmp_path))
    refused = [case.name for case in cases if case.outcome == "refused"]
    assert refused == ["fit, silence, esr", "fit, DC, esr"], cases
    assert all(case.outcome in ("refused", "finite") for case in cases), cases


def test_a_run_without_steps_or_record_is_not_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is no run folder, as it has no config.yaml" in refused(capsys, tmp_path)
    write_text(tmp_path / "config.yaml", "")
    write_text(tmp_path / "meta.json", '{"losses": [], "reproduce": 5}')
    assert "took no step" in refused(capsys, tmp_path)
    write_text(tmp_path / "meta.json", '{"losses": [1.0]}')
    assert "lacks input_path; give --dry and --wet" in refused(capsys, tmp_path)
