"""The two scripts for MedleyDB: which songs have vocals, and fitting all of them, again and again until done."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from takes import QUICK, RUN_FILES, SR, mixed, take

import main
from reknob.data.audio import write_audio
from reknob.data.pair_files import find_songs
from scripts import get_medley_vocal_txt

ROOT = Path(__file__).parents[1]
METADATA = ROOT.parent / "shared" / "metadata"
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


def train(tmp_path: Path, songs: list[str], *settings: str) -> subprocess.CompletedProcess:
    (tmp_path / "list.txt").write_text("# songs\n\n" + "\n".join(str(tmp_path / song) for song in songs))
    script = ROOT / "scripts" / "train_medley.sh"
    command = ["bash", str(script), str(tmp_path / "list.txt"), str(tmp_path / "log dir"), *QUICK, *settings]
    environment = os.environ | {"PYTHON": sys.executable}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)


def test_songs_of_a_list_are_fitted_once_and_failures_are_listed_and_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_take(tmp_path / "A Song", 0)
    write_take(tmp_path / "B_Song", 1)
    write_song(tmp_path / "C_Played", "C_Played", instrumental="yes")
    songs = ["A Song/", "C_Played", "B_Song"]
    first = train(tmp_path, songs)
    assert first.returncode == 2
    assert "2 fitted, 0 done before, 1 failed" in first.stdout
    failed = f"fit_many.py: {tmp_path / 'C_Played'}: no pair found: C_Played is instrumental"
    assert failed in first.stdout.splitlines()
    logs = tmp_path / "log dir"
    for song in ("A Song", "B_Song"):
        assert RUN_FILES <= {p.name for p in (logs / song / f"{song}_STEM_01" / "run_0").iterdir()}
    assert failed in (logs / "train.log").read_text()
    (tmp_path / "C_Played" / "C_Played_METADATA.yaml").unlink()
    write_take(tmp_path / "C_Played", 2)
    # As the script calls it, without the start of another process.
    assert main.main([f"data_dir=@{tmp_path / 'list.txt'}", f"log_dir={logs}", "resume=true", *QUICK]) == 0
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
    script = ROOT / "scripts" / "train_medley.sh"
    done = subprocess.run(["bash", str(script), *argv], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr
