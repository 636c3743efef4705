"""The two scripts for MedleyDB: which songs have vocals, and fitting all of them, again and again until done."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
# Stands in for main.py's interpreter: songs called bad fail as main.py does, songs called stop are interrupted.
PYTHON = """\
#!/bin/sh
echo "$@" >> "$CALLS"
case "$*" in
    *bad*) echo "some notice"; echo "main.py: no pair found: bad is instrumental" >&2; exit 2 ;;
    *stop*) exit 130 ;;
esac
"""


def write_song(folder: Path, name: str, *, instrumental: str = "no", instrument: str = "female singer") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = SONG.format(name=name, instrumental=instrumental, instrument=instrument)
    (folder / f"{name}_METADATA.yaml").write_text(text)


def test_songs_with_a_vocal_stem_are_listed_by_their_folders(tmp_path: Path, capsys):
    write_song(tmp_path / "Audio" / "A_Sung", "A_Sung")
    write_song(tmp_path / "Audio" / "B_Played", "B_Played", instrumental="yes")
    write_song(tmp_path / "Audio" / "C_Piano", "C_Piano", instrument="piano")
    (tmp_path / "Audio" / "D_Broken").mkdir()
    (tmp_path / "Audio" / "D_Broken" / "D_Broken_METADATA.yaml").write_text("stems: [")
    assert get_medley_vocal_txt.main([str(tmp_path), "--out", str(tmp_path / "list.txt"), "--verbose"]) == 0
    assert (tmp_path / "list.txt").read_text() == f"{tmp_path / 'Audio' / 'A_Sung'}\n"
    errors = capsys.readouterr().err
    assert "B_Played is instrumental" in errors and "C_Piano has no vocal stem" in errors and "D_Broken" in errors


def test_metadata_kept_apart_leads_to_the_song_folders(tmp_path: Path, capsys):
    write_song(tmp_path / "Metadata", "A_Sung")
    write_song(tmp_path / "Metadata", "B_Absent")
    (tmp_path / "Audio" / "A_Sung").mkdir(parents=True)
    assert get_medley_vocal_txt.main([str(tmp_path)]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed == [str(tmp_path / "Audio" / "A_Sung"), str(tmp_path / "Metadata" / "B_Absent")]


def test_a_folder_without_metadata_is_refused(tmp_path: Path, capsys):
    assert get_medley_vocal_txt.main([str(tmp_path)]) == 2
    assert "give the root of MedleyDB" in capsys.readouterr().err


@pytest.mark.skipif(not METADATA.is_dir(), reason="the metadata of MedleyDB are not here")
def test_the_published_songs_are_among_those_of_the_real_metadata():
    songs, _ = get_medley_vocal_txt.vocal_songs(METADATA / "medleydb")
    published = {Path(line).name for line in (METADATA / "medley_vocals_list.txt").read_text().split()}
    assert len(published) == 58
    assert published <= {song.name for song in songs}


def train(tmp_path: Path, songs: list[str], *settings: str) -> subprocess.CompletedProcess:
    (tmp_path / "list.txt").write_text("# songs\n\n" + "\n".join(songs))
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    script = ROOT / "scripts" / "train_medley.sh"
    environment = os.environ | {"PYTHON": str(python), "CALLS": str(tmp_path / "calls")}
    command = ["bash", str(script), str(tmp_path / "list.txt"), str(tmp_path / "log dir"), *settings]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)


def calls(tmp_path: Path) -> list[str]:
    lines = (tmp_path / "calls").read_text().splitlines()
    (tmp_path / "calls").unlink()
    return lines


def test_songs_are_fitted_once_and_failures_are_listed_and_tried_again(tmp_path: Path):
    first = train(tmp_path, ["/data/a song", "/data/bad/", "/data/last"], "epochs=3", "seed=1")
    assert first.returncode == 1
    log = tmp_path / "log dir"
    rest = "resume=true epochs=3 seed=1"
    assert calls(tmp_path) == [
        f"{ROOT / 'main.py'} data_dir=/data/{song} log_dir={log / song} {rest}" for song in ("a song", "bad", "last")
    ]
    assert first.stdout.splitlines()[-2:] == [
        "2 songs fitted, 0 done before, 1 failed",
        "failed: /data/bad: main.py: no pair found: bad is instrumental",
    ]
    assert "some notice" in (log / "bad" / "train.log").read_text()
    second = train(tmp_path, ["/data/a song", "/data/bad", "/data/last"])
    assert second.returncode == 1 and "0 songs fitted, 2 done before, 1 failed" in second.stdout
    assert len(calls(tmp_path)) == 1


def test_an_interruption_ends_the_whole_and_is_not_taken_for_done(tmp_path: Path):
    assert train(tmp_path, ["/data/a", "/data/stop", "/data/b"]).returncode == 130
    assert [line.split()[1] for line in calls(tmp_path)] == ["data_dir=/data/a", "data_dir=/data/stop"]
    train(tmp_path, ["/data/a", "/data/stop", "/data/b"])
    assert [line.split()[1] for line in calls(tmp_path)] == ["data_dir=/data/stop"]


def test_main_takes_the_arguments_that_the_script_gives(tmp_path: Path):
    write_song(tmp_path / "B_Played", "B_Played", instrumental="yes")
    (tmp_path / "list.txt").write_text(f"{tmp_path / 'B_Played'}\n")
    script = ROOT / "scripts" / "train_medley.sh"
    environment = os.environ | {"PYTHON": sys.executable}
    command = ["bash", str(script), str(tmp_path / "list.txt"), str(tmp_path / "log"), "epochs=1"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "failed:" in done.stdout and "B_Played is instrumental" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("argv", [[], ["list"], ["no_such_list", "log"]])
def test_wrong_arguments_are_refused(argv: list[str], tmp_path: Path):
    script = ROOT / "scripts" / "train_medley.sh"
    done = subprocess.run(["bash", str(script), *argv], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr
