"""The two scripts for MedleyDB: which songs have vocals, and fitting all of them, again and again until done."""

import os
import subprocess
from pathlib import Path

import pytest
from takes import QUICK, RUN_FILES, SR, mixed, take

import main
from reknob.data.audio import write_audio
from reknob.data.pair_files import find_songs
from scripts import fit_many, get_medley_vocal_txt

ROOT = Path(__file__).parents[1]
METADATA = ROOT.parent / "shared" / "metadata"
SCRIPT = ROOT / "scripts" / "train_medley.sh"
SONG = """\
instrumental: '{instrumental}'
raw_dir: {name}_RAW
stem_dir: {name}_STEMS
stems:
  S01:
    filename: {name}_STEM_01.wav
    instrument: {instrument}
    raw:
      R01: {{filename: {name}_RAW_01_01.wav}}
"""


def write_song(folder: Path, name: str, *, instrumental: str = "no", instrument: str = "female singer") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = SONG.format(name=name, instrumental=instrumental, instrument=instrument)
    (folder / f"{name}_METADATA.yaml").write_text(text)


def test_songs_with_a_vocal_stem_are_listed_by_their_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_song(tmp_path / "Audio" / "A_Sung", "A_Sung")
    write_song(tmp_path / "Audio" / "B_Played", "B_Played", instrumental="yes")
    write_song(tmp_path / "Audio" / "C_Piano", "C_Piano", instrument="piano")
    (tmp_path / "Audio" / "D_Broken").mkdir()
    (tmp_path / "Audio" / "D_Broken" / "D_Broken_METADATA.yaml").write_text("stems: [")
    assert get_medley_vocal_txt.main([str(tmp_path), "--out", str(tmp_path / "list.txt"), "--verbose"]) == 0
    assert (tmp_path / "list.txt").read_text() == f"{tmp_path / 'Audio' / 'A_Sung'}\n"
    errors = capsys.readouterr().err
    assert "B_Played is instrumental" in errors and "C_Piano has no vocal stem" in errors and "D_Broken" in errors


def test_metadata_kept_apart_leads_to_the_song_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_song(tmp_path / "Metadata", "A_Sung")
    write_song(tmp_path / "Metadata", "B_Absent")
    (tmp_path / "Audio" / "A_Sung").mkdir(parents=True)
    assert get_medley_vocal_txt.main([str(tmp_path)]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed == [str(tmp_path / "Audio" / "A_Sung"), str(tmp_path / "Metadata" / "B_Absent")]


def test_a_folder_without_metadata_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert get_medley_vocal_txt.main([str(tmp_path)]) == 2
    assert "give the root of MedleyDB" in capsys.readouterr().err


@pytest.mark.skipif(not METADATA.is_dir(), reason="the metadata of MedleyDB are not here")
def test_the_published_songs_are_among_those_of_the_real_metadata() -> None:
    songs, _ = get_medley_vocal_txt.vocal_songs(METADATA / "medleydb")
    published = {Path(line).name for line in (METADATA / "medley_vocals_list.txt").read_text().split()}
    assert len(published) == 58
    assert published <= {song.name for song in songs}


def write_take(song: Path, seed: int) -> None:
    """A song's stem and its raw track, beside its metadata."""
    write_song(song, song.name)
    dry = take(seed=seed)
    write_audio(song / f"{song.name}_RAW" / f"{song.name}_RAW_01_01.wav", dry, SR)
    write_audio(song / f"{song.name}_STEMS" / f"{song.name}_STEM_01.wav", mixed(dry), SR)


def test_the_script_runs_fit_many_keeps_what_it_says_and_ends_as_it_does(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\necho failed >&2\nexit 2\n')
    python.chmod(0o755)
    (tmp_path / "list.txt").touch()
    command = ["bash", str(SCRIPT), "list.txt", "log dir", "epochs=3", "model=a b"]
    for _ in range(2):
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "PYTHON": str(python)}, cwd=tmp_path
        )
        program = str(ROOT / "scripts" / "fit_many.py")
        expected = [program, "list.txt", "log dir", "--together", "64", "epochs=3", "model=a b", "failed"]
        assert done.returncode == 2 and done.stdout.splitlines() == expected
    assert (tmp_path / "log dir" / "train.log").read_text() == 2 * done.stdout


def test_songs_of_a_list_are_fitted_once_and_failures_are_listed_and_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_take(tmp_path / "A Song", 0)
    write_take(tmp_path / "B_Song", 1)
    write_song(tmp_path / "C_Played", "C_Played", instrumental="yes")
    songs, logs = ["A Song/", "C_Played", "B_Song"], tmp_path / "log dir"
    (tmp_path / "list.txt").write_text("# songs\n\n" + "\n".join(str(tmp_path / song) for song in songs))
    argv = [str(tmp_path / "list.txt"), str(logs), "--together", "64", *QUICK]  # as the script calls it
    assert fit_many.main(argv) == 2
    out, err = capsys.readouterr()
    assert "2 fitted, 0 done before, 1 failed" in out
    assert f"fit_many.py: {tmp_path / 'C_Played'}: no pair found: C_Played is instrumental" in err.splitlines()
    for song in ("A Song", "B_Song"):
        assert RUN_FILES <= {p.name for p in (logs / song / f"{song}_STEM_01" / "run_0").iterdir()}
    (tmp_path / "C_Played" / "C_Played_METADATA.yaml").unlink()
    write_take(tmp_path / "C_Played", 2)
    assert fit_many.main(argv) == 0
    assert "1 fitted, 2 done before, 0 failed" in capsys.readouterr().out
    assert not (logs / "A Song" / "A Song_STEM_01" / "run_1").exists()


def test_songs_of_one_name_do_not_replace_each_other(tmp_path: Path) -> None:
    listed = ["one/Song", "two/Song", "a/two/Song", "one/Song/", "two_Song"]
    for folder in listed:
        write_take(tmp_path / folder, 0)
    (tmp_path / "list.txt").write_text("".join(f"{tmp_path}/{folder}\n" for folder in listed))
    songs, skipped, failed = find_songs(Path("logs"), data_dir=f"@{tmp_path / 'list.txt'}")
    found = {folder.name: files[0].wet_path.parents[1] for folder, files in songs.items()}
    assert found == {
        "Song": tmp_path / "one" / "Song",
        "two_Song": tmp_path / "two" / "Song",
        "a_two_Song": tmp_path / "a" / "two" / "Song",
        f"{tmp_path.name}_two_Song": tmp_path / "two_Song",
    }
    assert failed == [] and skipped == [f"{tmp_path}/one/Song/ is listed twice"]


def test_a_list_that_leads_nowhere_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    for name, message in {"empty.txt": "the list names no folder", "none.txt": "the list cannot be read"}.items():
        assert main.main([f"data_dir=@{tmp_path / name}", f"log_dir={tmp_path}"]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["list"], ["no_such_list", "log"]])
def test_wrong_arguments_are_refused(argv: list[str], tmp_path: Path) -> None:
    done = subprocess.run(["bash", str(SCRIPT), *argv], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr
