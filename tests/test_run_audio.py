"""The recordings of a run folder: one gain, within full scale, as many as are kept; the excerpts of TensorBoard."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from takes import QUICK, SR, mixed, take, write_pair

import main
from reknob.data.audio import read_audio, read_bits, write_audio
from reknob.data.pair_files import PairFiles
from reknob.fitting.session import Song
from reknob.formats.run_audio import run_audio, write_run_audio
from reknob.formats.runs import read_meta
from reknob.report.board import EXCERPT, TensorBoardWriter, loudest


def test_all_recordings_get_one_gain_so_that_none_clips(tmp_path: Path) -> None:
    sounds = {"dry": take(1.0), "wet": 20 * mixed(take(1.0)), "fitted": mixed(take(1.0))}
    gain = write_run_audio(tmp_path, sounds, SR)
    read = {name: read_audio(path)[0] for name, path in run_audio(tmp_path).items()}
    assert list(read) == ["dry", "wet", "fitted"] and {read_bits(path) for path in run_audio(tmp_path).values()} == {16}
    assert gain < -6 and 0.98 < float(read["wet"].abs().max()) < 1
    for name, x in sounds.items():
        torch.testing.assert_close(read[name] / 10 ** (gain / 20), x, rtol=0, atol=1.6 * 2**-15 / 10 ** (gain / 20))
    assert write_run_audio(tmp_path, {"fitted": sounds["fitted"]}, SR) == 0.0
    assert list(run_audio(tmp_path)) == ["fitted"], "what is not kept is removed"
    assert write_run_audio(tmp_path, {}, SR) == 0.0 and run_audio(tmp_path) == {}


def test_a_run_of_an_earlier_version_has_its_fitted_wav_until_it_is_resumed(tmp_path: Path) -> None:
    write_audio(tmp_path / "fitted.wav", mixed(take(1.0)), SR)
    assert run_audio(tmp_path) == {"fitted": tmp_path / "fitted.wav"}
    write_run_audio(tmp_path, {"fitted": mixed(take(1.0))}, SR)
    assert run_audio(tmp_path) == {"fitted": tmp_path / "fitted.flac"} and not (tmp_path / "fitted.wav").exists()


def test_a_run_keeps_what_the_setting_says_in_its_folder_and_tensorboard(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert main.main([*write_pair(tmp_path), *QUICK, "epochs=1", "keep_audio=fitted"]) == 0
    run = tmp_path / "logs" / "song" / "run_0"
    tags = accumulator.EventAccumulator(str(run)).Reload().Tags()
    assert list(run_audio(run)) == ["fitted"] == tags["audio"]
    assert read_meta(run)["terminated_by"] is None


def test_an_unknown_word_for_what_is_kept_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([*write_pair(tmp_path), "keep_audio=some"]) == 2
    assert "keep_audio=some: unknown; known: all, fitted, none" in capsys.readouterr().err


def test_tensorboard_gets_the_loudest_excerpt(tmp_path: Path) -> None:
    x = torch.zeros(2, 1000)
    x[0, 300:340], x[1, 700:702] = 1.0, 1.0
    excerpt = loudest(x, 40)
    assert (excerpt.start, excerpt.stop) == (300, 340)
    assert loudest(x, 1000) == loudest(x, 2000) == slice(0, 1000)
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    pair = SimpleNamespace(wet=mixed(take(EXCERPT + 2)), sr=SR)
    run = SimpleNamespace(
        path=tmp_path, pair=pair, track=SimpleNamespace(step_count=0), fitted=pair.wet, sounds={"wet": pair.wet}
    )
    run.certainty = {}
    with TensorBoardWriter() as board:
        board.end(Song(tmp_path, PairFiles(tmp_path, tmp_path, "long"), run=run))
    (audio,) = accumulator.EventAccumulator(str(tmp_path)).Reload().Audio("wet")
    assert len(audio.encoded_audio_string) == pytest.approx(2 * EXCERPT * SR, abs=100)
