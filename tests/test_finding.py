"""Data sets as people keep them: lists of folders, home folders, hidden files, and what is none of these."""

import os
from pathlib import Path

import pytest

from reknob.data.pair_files import find_pairs, find_songs
from reknob.runtime.errors import UsageError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def songs_of(tmp_path: Path, content: str | bytes) -> tuple[list[str], list[str]]:
    """The names of the songs of a list, and what failed."""
    raw = content.encode() if isinstance(content, str) else content
    (tmp_path / "list.txt").write_bytes(raw)
    songs, _, failed = find_songs(tmp_path / "logs", data_dir=f"@{tmp_path / 'list.txt'}")
    return [folder.name for folder in songs], failed


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for song in ("one", "two"):
        touch(tmp_path / song / "dry.wav", tmp_path / song / "wet.m4a")
    return tmp_path


def test_lines_of_a_list_may_begin_with_a_home_folder_a_bom_or_blanks(home):
    assert songs_of(home, f"\ufeff~/one\r\n  # a comment\r\n\r\n  {home}/two  \r\n") == (["one", "two"], [])


@pytest.mark.parametrize("bad", ["~nosuchuser/x", "x" * 5000, "a/" * 3000, "no such folder", "\udcff"])
def test_a_bad_line_fails_alone_and_briefly(home, bad):
    names, failed = songs_of(home, os.fsencode(f"~/one\n{bad}\n~/two\n"))
    assert names == ["one", "two"]
    (line,) = failed
    assert "\n" not in line and len(line) < 300


def test_a_failure_names_its_folder_once(home):
    _, (failed,) = songs_of(home, "~/one\n/nope\n")
    assert failed.count("/nope") == 1


@pytest.mark.parametrize("content", [b"RIFF\0\0\0\0WAVE", bytes(1000)])
def test_a_file_that_is_no_list_is_refused(tmp_path, content):
    with pytest.raises(UsageError, match="no text file; give one with a folder per line"):
        songs_of(tmp_path, content)


def test_lists_that_cannot_be_read_are_refused_at_once(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").touch()
    (tmp_path / "long").write_text("# much\n" * 10)
    monkeypatch.setattr("reknob.data.pair_files.LONGEST_LIST", 50)
    for name, message in {
        tmp_path / "fifo": "is a pipe, a socket or a device",
        "/dev/zero": "is a pipe, a socket or a device",
        tmp_path: "is no text file",
        tmp_path / "none": "cannot be read",
        tmp_path / "empty": "names no folder",
        tmp_path / "long": "is it a list",
        "~nosuchuser/list": "no such home folder",
        "a\0b": "no path that a file can have",
        "x" * 5000: "no path that a file can have",
    }.items():
        with pytest.raises(UsageError, match=message) as error:
            find_songs(Path("logs"), data_dir=f"@{name}")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["~nosuchuser/x", "a\0b", "x" * 5000, "a/" * 3000])
def test_paths_that_no_file_has_are_refused_whatever_they_are_for(path):
    for given in ({"data_dir": path}, {"dry": path, "wet": "wet.wav"}, {"dry": "dry.wav", "wet": path}):
        with pytest.raises(UsageError) as error:
            find_pairs(**given)
        assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_hidden_files_and_folders_are_no_pairs(tmp_path):
    touch(tmp_path / "song" / "dry.wav", tmp_path / "song" / "wet.flac")
    touch(tmp_path / "song" / "._dry.wav", tmp_path / "song" / "._wet.wav")
    touch(tmp_path / ".trash" / "dry.wav", tmp_path / ".trash" / "wet.wav")
    touch(tmp_path / "._song" / "dry.wav", tmp_path / "._song" / "wet.wav")
    touch(tmp_path / "._song_METADATA.yaml")
    (pair,) = find_pairs(data_dir=tmp_path).files
    assert (pair.name, pair.wet_path.name) == ("song", "wet.flac")


@pytest.mark.parametrize("suffix", [".m4a", ".mp4", ".aac", ".mkv", ".wma", ".webm", ".aifc", ".W64"])
def test_pairs_may_be_of_any_format(tmp_path, suffix):
    touch(tmp_path / f"a_dry{suffix}", tmp_path / f"a_wet{suffix}")
    assert find_pairs(data_dir=tmp_path).files[0].wet_path.suffix == suffix


@pytest.mark.parametrize("content", ["stems: [1]", "stems: {a: 3}", "stems: 5", "stems: {a: {instrument: singer}}"])
def test_metadata_of_another_kind_is_told_by_name(tmp_path, content):
    path = tmp_path / "song" / "song_METADATA.yaml"
    touch(path)
    path.write_text(f"{content}\nstem_dir: a\nraw_dir: b\n")
    with pytest.raises(UsageError, match="song_METADATA.yaml is not as MedleyDB|no pair found"):
        find_pairs(data_dir=tmp_path / "song")


def test_names_that_are_not_utf_8_become_names_that_everything_can_write(tmp_path):
    try:
        touch(tmp_path / "t\udcffke_dry.wav", tmp_path / "t\udcffke_wet.wav")
    except OSError:
        pytest.skip("this file system takes no such name")
    (pair,) = find_pairs(data_dir=tmp_path).files
    assert pair.name == r"t\xffke" and pair.wet_path.exists()
    assert songs_of(tmp_path.parent, os.fsencode(tmp_path) + b"\n")[1] == []
