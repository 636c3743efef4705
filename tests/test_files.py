"""Writing files and folders: whole at every instant, also on a full disk and where a folder vanishes, with any name."""

import errno
import json
import os
import re
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import reknob
from reknob.estimation.estimator import load_estimator
from reknob.formats import runs
from reknob.runtime import files
from reknob.runtime.errors import UsageError
from reknob.runtime.files import (
    atomic_folder,
    atomic_path,
    read_array,
    read_arrays,
    read_json,
    read_tensors,
    write_array,
    write_arrays,
    write_bytes,
    write_tensors,
    write_text,
)
from reknob.runtime.locks import FolderLock

ODD_NAMES = ["\udcff", "音", "a b", "x" * 250, "ü" * 120, ".hidden", "-", "a\nb"]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow above `size` bytes: the one way to run out of room that needs no disk of its own."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


WRITERS = {
    "bytes": lambda path: write_bytes(path, b"x" * 10_000),
    "text": lambda path: write_text(path, "x" * 10_000),
    "tensors": lambda path: write_tensors(path, {"x": torch.ones(10_000)}),
    "array": lambda path: write_array(path, np.ones(10_000)),
    "arrays": lambda path: write_arrays(path, x=np.random.default_rng(0).random(10_000)),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("room", [0, 64, 1024, 9000])
def test_a_full_disk_is_an_error_of_the_file_and_leaves_the_old_one_whole(
    write: object, room: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.file"
    write_text(path, "old")
    with full_disk(room), pytest.raises(OSError) as raised:
        write(path)
    assert raised.value.errno == errno.EFBIG and str(raised.value) == f"[Errno 27] File too large: '{path}'"
    assert contents(tmp_path) == {"a.file": b"old"}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_folder_that_is_gone_or_a_file_by_now_is_an_error_of_the_file(write: object, tmp_path: Path) -> None:
    path = tmp_path / "run_0" / "a.file"
    with pytest.raises(FileNotFoundError) as raised:
        write(path)
    assert str(raised.value) == f"[Errno 2] No such file or directory: '{path}'"
    (tmp_path / "run_0").write_text("mine")
    with pytest.raises(NotADirectoryError) as raised:
        write(path)
    assert str(raised.value) == f"[Errno 20] Not a directory: '{path}'"
    assert contents(tmp_path) == {"run_0": b"mine"}


def test_a_folder_that_vanishes_while_a_file_is_written_is_an_error_of_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "run_0"
    folder.mkdir()

    def write_and_lose() -> None:
        with atomic_path(folder / "a.txt") as temporary:
            temporary.write_text("new")
            temporary.unlink()
            folder.rmdir()

    with pytest.raises(FileNotFoundError) as raised:
        write_and_lose()
    assert raised.value.filename == str(folder / "a.txt")


def test_the_error_of_another_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised, atomic_path(tmp_path / "a.txt"):
        (tmp_path / "other.txt").read_text()
    assert str(raised.value.filename) == str(tmp_path / "other.txt")


def test_what_is_in_place_is_on_the_disk_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    replace = os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: done.append(Path(os.readlink(f"/proc/self/fd/{handle}"))))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("replace"), replace(a, b)))
    write_text(tmp_path / "a.json", "1")
    file, replaced, folder = done
    assert file.name.startswith(".a.") and replaced == "replace" and folder == tmp_path.resolve()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_a_file_system_without_fsync_is_written_and_a_broken_disk_is_told(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", failing)
    if number != errno.EIO:
        write_text(tmp_path / "a.json", "1")
        assert contents(tmp_path) == {"a.json": b"1"}
    else:
        with pytest.raises(OSError, match="a.json"):
            write_text(tmp_path / "a.json", "1")
        assert contents(tmp_path) == {}


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_files_of_any_name_are_written_and_read(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    write_tensors(folder / name, {"x": torch.ones(2)})
    assert torch.equal(read_tensors(folder / name)["x"], torch.ones(2))
    write_array(folder / name, np.arange(3))
    assert read_array(folder / name).tolist() == [0, 1, 2]
    write_arrays(folder / name, a=np.arange(2), b=np.eye(2))
    assert [array.shape for array in read_arrays(folder / name, ("b", "a"))] == [(2, 2), (2,)]
    write_text(folder / name, json.dumps({name: str(folder)}, ensure_ascii=False))
    assert read_json(folder / name) == {name: str(folder)}
    write_text(folder / name, yaml.safe_dump({name: str(folder)}, allow_unicode=True))
    assert yaml.safe_load((folder / name).read_text(encoding="utf-8")) == {name: str(folder)}
    with FolderLock(folder, "give another"), pytest.raises(UsageError, match="is being written by process"):
        FolderLock(folder, "give another")
    assert [path.name for path in folder.iterdir()] == [name]


def test_a_run_of_a_song_of_any_name_is_recorded_and_found_again(tmp_path: Path) -> None:
    wet = tmp_path / "\udcff.wav"
    folder = runs.new_run(tmp_path / "logs", wet.stem)
    runs.begin(folder, {"wet": str(wet)}, target_path=str(wet))
    runs.save_checkpoint(folder, {"model": {}})
    assert runs.newest_run(tmp_path / "logs", wet.stem, wet) == folder
    runs.check_same_fit(folder, {"wet": str(wet)})


def broken_folder(folder: Path, *, overwrite: bool = False) -> None:
    with atomic_folder(folder, overwrite=overwrite) as temporary:
        (temporary / "half").touch()
        raise RuntimeError("in the middle")


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="in the middle"):
        broken_folder(tmp_path / "deep" / "set")
    assert list((tmp_path / "deep").iterdir()) == []
    with atomic_folder(tmp_path / "deep" / "set") as temporary:
        (temporary / "a").write_text("new")
        assert not (tmp_path / "deep" / "set").exists()
    assert contents(tmp_path / "deep" / "set") == {"a": b"new"}
    mask = files._umask()
    assert (tmp_path / "deep" / "set").stat().st_mode & 0o777 == 0o777 & ~mask


@pytest.mark.parametrize("at_once", [True, False])
def test_an_older_folder_is_replaced_as_a_whole_when_asked(
    at_once: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not at_once:  # as on systems that cannot swap two folders
        monkeypatch.setattr(files.ctypes, "CDLL", lambda _: object())
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "old").write_text("old")
    (tmp_path / "link").symlink_to("set")
    with pytest.raises(OSError, match="Directory not empty: .*set"), atomic_folder(tmp_path / "set"):
        pass
    with pytest.raises(RuntimeError, match="in the middle"):
        broken_folder(tmp_path / "set", overwrite=True)
    assert contents(tmp_path / "set") == {"old": b"old"}
    with atomic_folder(tmp_path / "link", overwrite=True) as temporary:
        (temporary / "new").write_text("new")
        assert contents(tmp_path / "set") == {"old": b"old"}
    assert contents(tmp_path / "set") == {"new": b"new"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "set"]


def test_a_folder_has_one_writer_and_says_which(tmp_path: Path) -> None:
    with FolderLock(tmp_path, "give another"):
        with pytest.raises(UsageError) as refused:
            FolderLock(tmp_path, "give another")
        holder = rf"process {os.getpid()} on \S+ since 20\d\d-\S+"
        assert re.fullmatch(rf"\S+ is being written by {holder}; wait for it, or give another", str(refused.value))
    assert list(tmp_path.iterdir()) == []
    held = FolderLock(tmp_path, "give another")
    held.release()
    held.release()
    FolderLock(tmp_path, "give another").release()


def test_a_lock_whose_folder_or_file_is_gone_is_released_without_a_word(tmp_path: Path) -> None:
    folder = tmp_path / "run_0"
    folder.mkdir()
    held = FolderLock(folder, "give another")
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    held.release()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file: cannot be written"):
        FolderLock(tmp_path / "file", "give another")


def test_a_folder_that_cannot_be_written_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("reknob.runtime.locks.FileLock.acquire", read_only)
    with pytest.raises(UsageError) as refused:
        runs.lock(tmp_path)
    assert str(refused.value) == f"{tmp_path}: cannot be written (Read-only file system); give another log_dir"


def test_the_lock_of_another_process_holds_while_that_lives(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    other = os.fork()
    if other == 0:
        held = FolderLock(tmp_path, "give another")
        os.write(writer, b"held")
        time.sleep(60)
        held.release()
        os._exit(0)
    try:
        assert os.read(reader, 4) == b"held"
        with pytest.raises(UsageError, match=f"is being written by process {other} on "):
            FolderLock(tmp_path, "give another")
    finally:
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)
        os.close(reader)
        os.close(writer)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", ".lock.json"}, "it could not take them along"
    FolderLock(tmp_path, "give another").release()
    assert list(tmp_path.iterdir()) == []


def test_what_the_project_ships_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert files.input_path("presets/own") == files.SHIPPED / "presets" / "own"
    (tmp_path / "presets" / "own").mkdir(parents=True)
    assert files.input_path("presets/own") == Path("presets/own")
    assert files.input_path("presets/none") == Path("presets/none")
    assert files.input_path(tmp_path / "checkpoints" / "peq.pt") == tmp_path / "checkpoints" / "peq.pt"


def test_presets_and_estimators_of_the_project_are_read_in_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert reknob.load_preset("presets/own", row=0).values["comp"]["attack"] > 0
    assert load_estimator("checkpoints/peq.pt")[0].settings["sr"] == 44100
