"""Fleets: the same fits as main.py's, on a disk and at URLs, resumed, retried, split and watched."""

import csv
import json
import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
import torch
from takes import SR, mixed, take

import main
from reknob.data.audio import write_audio
from reknob.fitting.command_line import read_settings
from reknob.fleet import songs, watch
from reknob.fleet.backends import Finished
from reknob.fleet.driver import Driver
from reknob.fleet.local import Workers
from reknob.fleet.songs import Song, State
from reknob.fleet.store import Store
from reknob.fleet.task import RUNNING, Result, Task, tasks_of
from reknob.formats import runs
from reknob.runtime.errors import UsageError
from reknob.runtime.files import read_json
from scripts import fit_many, fleet_status

NAMES = ("a", "b", "c")
#: A chain whose steps take milliseconds.
CHAIN = "eq: {effect: peak}\npan: {effect: panning}\n"
SETTINGS = ["chunk_duration=1.5", "chunk_overlap=0.5", "epochs=3"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder of three songs, and settings that fit them quickly."""
    folder = tmp_path_factory.mktemp("fleet")
    for seed, name in enumerate(NAMES):
        dry = take(2.0, seed)
        (folder / "songs" / name).mkdir(parents=True)
        write_audio(folder / "songs" / name / "dry.wav", dry, SR)
        write_audio(folder / "songs" / name / "wet.wav", 0.5 * mixed(dry), SR)
    (folder / "chain.yaml").write_text(CHAIN)
    return folder / "songs", [*SETTINGS, f"model={folder / 'chain.yaml'}"]


@pytest.fixture(scope="module")
def alone(small: tuple[Path, list[str]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """The checkpoint of each song by main.py."""
    logs, (folder, settings) = tmp_path_factory.mktemp("alone"), small
    for name in NAMES:
        assert main.main([f"data_dir={folder / name}", f"log_dir={logs}", *settings]) == 0
    return {name: runs.load_checkpoint(logs / name / "run_0") for name in NAMES}


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def assert_same(checkpoint: dict, other: dict) -> None:
    """Bit by bit."""
    assert checkpoint["losses"] == other["losses"]
    for name, raw in checkpoint["best_model"].items():
        assert torch.equal(raw, other["best_model"][name]), name


def test_a_fleet_leaves_the_runs_of_main_and_finished_ones_alone(
    small: tuple[Path, list[str]], alone: dict[str, dict], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, settings = small
    (tmp_path / "list.txt").write_text("".join(f"{folder / name}\n" for name in NAMES))
    for logs, source in {"songs": folder, "listed": tmp_path / "list.txt"}.items():
        assert fit_many.main([str(source), str(tmp_path / logs), *settings]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == "3 fitted, 0 done before, 0 failed"
    for name in NAMES:
        assert_same(runs.load_checkpoint(tmp_path / "songs" / name / "run_0"), alone[name])
        assert_same(runs.load_checkpoint(tmp_path / "listed" / name / name / "run_0"), alone[name])
    logs = tmp_path / "songs"
    assert fit_many.main([str(folder), str(logs), *settings, "--quiet"]) == 0
    assert capsys.readouterr().out == "0 fitted, 3 done before, 0 failed\n"
    assert fit_many.main([str(folder), str(logs), *settings, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["done_before"] == 3
    summary = read_json(logs / "summary.json")
    assert summary["total"] == summary["counts"]["finished"] == summary["done_before"] == 3
    assert not list((logs / RUNNING).iterdir()) and not (logs / "a" / "run_1").exists()
    with open(logs / "summary.csv", newline="") as file:
        assert [(row["id"], row["state"]) for row in csv.DictReader(file)] == [(name, "finished") for name in NAMES]


def test_songs_and_results_in_a_store_are_fetched_resumed_and_put_back(
    small: tuple[Path, list[str]], alone: dict[str, dict], memory: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    folder, settings = small
    memory.put(str(folder), "/in", recursive=True)
    memory.pipe_file("/list.txt", b"# two\n\nmemory://in/a\nmemory://in/b\n")
    fleet = ["memory://list.txt", "memory://out", *settings]
    assert fit_many.main([*fleet, "epochs=2"]) == 0
    assert json.loads(memory.cat("/out/a/a/run_0/meta.json"))["target_path"] == "memory://in/a/wet.wav"
    assert fit_many.main([*fleet, "--together", "2"]) == 0
    for name in ("a", "b"):
        memory.get(f"/out/{name}/{name}/run_0/checkpoint.ckpt", str(tmp_path / name / "checkpoint.ckpt"))
        state = runs.load_checkpoint(tmp_path / name)
        assert state["losses"] == pytest.approx(alone[name]["losses"], rel=1e-5) and len(state["losses"]) == 3
        assert not memory.exists(f"/out/{name}/{name}/run_1")
    assert json.loads(memory.cat("/out/summary.json"))["counts"]["finished"] == 2
    assert not [path for path in memory.find("/out") if ".part" in path or RUNNING in path]


def test_a_song_that_fails_is_tried_again_and_listed_with_its_reason(
    small: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, settings = small
    (tmp_path / "broken").mkdir()
    for side in ("dry", "wet"):
        (tmp_path / "broken" / f"{side}.wav").write_text("no audio")
    places = [folder / "a", tmp_path / "broken", tmp_path / "absent"]
    (tmp_path / "list.txt").write_text("\n".join(map(str, places)))
    arguments = [str(tmp_path / "list.txt"), str(tmp_path / "logs"), *settings]
    assert fit_many.main([*arguments, "--retries", "2"]) == 2
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == "1 fitted, 0 done before, 2 failed"
    assert printed.err.count("fit_many.py: ") == 2
    rows = {row["id"]: row for row in read_json(tmp_path / "logs" / "summary.json")["songs"]}
    assert rows["broken/broken"]["attempts"] == 3 and "dry.wav cannot be read" in rows["broken/broken"]["reason"]
    assert fleet_status.main([str(tmp_path / "logs")]) == 2
    shown = capsys.readouterr().out
    assert "1 of 3 done, 0 running, 2 failed" in shown and f"failed: data_dir={places[2]} does not exist" in shown


def song(name: str, size: int = 0) -> Song:
    return Song("", name, "dry.wav", "wet.wav", size)


class FakeBackend:
    """Ends tasks as a function of their songs says."""

    name, window = "fake", 4

    def __init__(self, end: Callable[[Task], Finished]) -> None:
        self.end, self.given = end, list[tuple[str, ...]]()
        self._ready: list[Finished] = []

    def submit(self, tasks: Sequence[Task]) -> None:
        self.given += [tuple(each.id for each in task.songs) for task in tasks]
        self._ready += map(self.end, tasks)

    def finished(self, timeout: float) -> list[Finished]:
        ready, self._ready = self._ready, []
        return ready

    def stop(self) -> None: ...

    def __enter__(self) -> "FakeBackend":
        return self

    def __exit__(self, *_: object) -> None: ...


def run(backend: FakeBackend | Workers, tasks: Sequence[Task], folder: Path, retries: int = 1) -> dict[str, watch.Row]:
    rows = {each.id: watch.Row(each.id) for task in tasks for each in task.songs}
    store = Store(str(folder))
    driver = Driver(
        backend,
        watch.Writer(store, "", 0.0),
        watch.Summary(backend.name, rows),
        retries=retries,
        on_tick=lambda summary: None,
        on_failure=lambda reason: None,
    )
    driver.run(tasks, lambda: False)
    return rows


def test_the_songs_of_a_lost_worker_are_tried_again_alone_and_named(tmp_path: Path) -> None:
    def end(task: Task) -> Finished:
        if any(each.name == "bad" for each in task.songs):
            return Finished(task, [], "its worker was ended by SIGKILL")
        return Finished(task, [Result(each.id, State.FINISHED, steps=3, loss=1.0) for each in task.songs])

    task = Task((song("good"), song("bad")), str(tmp_path), read_settings(SETTINGS))
    backend = FakeBackend(end)
    rows = run(backend, [task], tmp_path, retries=1)
    assert backend.given == [("good", "bad"), ("good",), ("bad",), ("bad",)]
    assert rows["good"].state is State.FINISHED and rows["bad"].state is State.FAILED
    assert rows["bad"].reason == "bad: its worker was ended by SIGKILL" and rows["bad"].attempts == 3


def test_an_interrupted_song_goes_on_as_long_as_it_takes_steps(tmp_path: Path) -> None:
    steps = iter([10, 20, 30, 30, 30])
    task = Task((song("a"),), str(tmp_path), read_settings(SETTINGS))
    backend = FakeBackend(lambda t: Finished(t, [Result("a", State.INTERRUPTED, steps=next(steps))]))
    rows = run(backend, [task], tmp_path, retries=1)
    assert len(backend.given) == 5 and rows["a"].state is State.FAILED and "without a step" in rows["a"].reason


def test_a_killed_worker_process_costs_its_own_task_and_is_named(tmp_path: Path) -> None:
    task = Task((song("a"),), str(tmp_path), read_settings(SETTINGS))
    with Workers(2, 1) as workers:
        workers.submit([task])
        (worker,) = workers._workers
        assert worker.process.pid
        os.kill(worker.process.pid, signal.SIGKILL)
        (ended,) = workers.finished(20.0)
        assert ended.task is task and "was ended by SIGKILL" in ended.lost and not workers._workers
    with Workers(1, 1) as workers:
        tasks = [task, replace(task, songs=(song("b"),))]
        workers.submit(tasks)
        workers.stop()
        assert workers.finished(0.0) == [Finished(tasks[1], [])]  # it never began


def test_shards_are_even_and_hold_every_song_once() -> None:
    listed = [song(f"{number:02}") for number in range(10)]
    parts = [songs.shard(listed, f"{i}/3") for i in (1, 2, 3)]
    assert sorted((each for part in parts for each in part), key=lambda s: s.id) == listed
    assert [len(part) for part in parts] == [4, 3, 3]
    for text in ("0/3", "4/3", "1", "x/2", "1/0"):
        with pytest.raises(UsageError, match="--shard"):
            songs.shard(listed, text)


def test_tasks_are_neighbours_by_size_and_the_longest_come_first(tmp_path: Path) -> None:
    settings = read_settings(SETTINGS)
    listed = [song(name, size) for name, size in {"a": 1, "b": 9, "c": 2, "d": 8, "e": 5}.items()]
    grouped = tasks_of(listed, str(tmp_path), settings, each=2)
    assert [[each.name for each in task.songs] for task in grouped] == [["b", "d"], ["e", "c"], ["a"]]


def test_names_in_a_store_stay_in_its_folder_and_songs_of_one_name_apart(
    memory: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    for place in ("x/one_dry.wav", "x/one_wet.wav", "y/one_dry.wav", "y/one_wet.wav", "y/../../evil_dry.wav"):
        memory.store[f"/in/{place}"] = fsspec.implementations.memory.MemoryFile(memory, f"/in/{place}", b"1")
    found = songs.find("memory://in", None, tmp_path / "mirror").songs
    assert len({each.id for each in found}) == 2 and all(each.id.startswith("one-") for each in found)
    assert {each.wet for each in found} == {"memory://in/x/one_wet.wav", "memory://in/y/one_wet.wav"}
    assert not list(tmp_path.glob("evil*")) and all(each.size == 1 for each in found)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--on", "ray", "--ray-address", "localhost:1"], "--ray-address localhost:1: no cluster answers"),
        (["--on", "ray", "--ray-address", "nowhere"], "give host:port"),
        (["--on", "slurm"], "--on slurm: there is no sbatch here"),
        (["--on", "slurm", "--gpus", "0.5"], "Slurm gives whole GPUs"),
        (["--gpus", "1"], "is for --on ray and --on slurm"),
        (["slurm.partition=short"], "is for --on slurm"),
        (["log_dir=logs"], "SONGS and RESULTS say it here"),
        (["epoch=3"], "did you mean epochs?"),
        (["--shard", "9/8"], "give i/n"),
        (["--worker", "2", "--treads", "2"], "unknown option --treads; did you mean --threads?"),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(
    argv: list[str],
    message: str,
    small: tuple[Path, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "ray" in argv:
        pytest.importorskip("ray")
    if "slurm" in argv:
        pytest.importorskip("submitit")
        monkeypatch.setenv("PATH", "")
    assert fit_many.main([str(small[0]), str(tmp_path / "logs"), *argv]) == 2
    printed = capsys.readouterr().err
    assert message in printed and len(printed.splitlines()) == 1 and not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "songs.txt: does not exist; give a text file with a folder per line"),
        (b"# none\n", "songs.txt: the list names no folder"),
        (b"RIFF\0", "songs.txt: is no text file"),
    ],
)
def test_a_list_that_cannot_be_read_is_named(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "songs.txt").write_bytes(content)
    for name in ("", "@"):
        with pytest.raises(UsageError, match=re.escape(f"{tmp_path}/{message}")):
            songs.find(f"{name}{tmp_path}/songs.txt", None, tmp_path)


def test_memory_is_of_one_process(small: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert fit_many.main([str(small[0]), "memory://out", "--workers", "2"]) == 2
    assert "in the memory of one process" in capsys.readouterr().err
    assert fit_many.main([str(small[0]), "nosuch://out"]) == 2
    assert "nosuch://out: cannot be opened" in capsys.readouterr().err


def test_a_driver_that_is_gone_and_a_silent_worker_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    watch.Writer(store, "2/3").write(watch.Summary("local", {"a": watch.Row("a"), "b": watch.Row("b")}))
    state = {"id": "a", "state": "running", "step": 7, "loss": 1.5}
    store.write(f"{RUNNING}/x.json", json.dumps({"worker": "host:12", "at": 0.0, "songs": [state]}).encode())
    store.write(f"{RUNNING}/y.json", b"half a fi")
    now = watch.time.time
    monkeypatch.setattr(fleet_status.time, "time", lambda: now() + 1000)
    assert fleet_status.main([str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "0 of 2 done, 1 running" in shown and "it is gone" in shown and "summary-2of3.json" in shown
    assert "host:12 has written nothing for" in shown and "it fitted a" in shown
    assert fleet_status.main([str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["summary-2of3.json"]["total"] == 2
    assert fleet_status.main([str(tmp_path / "empty")]) == 2
    assert "holds no summary.json" in capsys.readouterr().err
