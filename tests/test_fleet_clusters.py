"""Fleets on a Ray cluster, by submitit, by a real Slurm of one node, and in a stand-in for S3, where these are here."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from one_node_slurm import is_installed, one_node_slurm
from takes import SR, mixed, take

import main
from reknob.data.audio import write_audio
from reknob.fleet.slurm import SlurmBackend
from reknob.fleet.songs import State
from reknob.fleet.store import Store
from reknob.fleet.task import Task
from reknob.formats import runs
from reknob.runtime.files import read_json
from scripts import fit_many

ROOT = Path(__file__).parents[1]
# Their processes load torch anew, several seconds each, for which the suite has no time.
clusters = pytest.mark.skipif("REKNOB_CLUSTERS" not in os.environ, reason="set REKNOB_CLUSTERS=1 to start clusters")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], dict[str, dict]]:
    """A folder of two songs, settings that fit them quickly, and their checkpoints by main.py with one thread."""
    folder = tmp_path_factory.mktemp("clusters")
    for seed, name in enumerate("ab"):
        dry = take(2.0, seed)
        (folder / "songs" / name).mkdir(parents=True)
        write_audio(folder / "songs" / name / "dry.wav", dry, SR)
        write_audio(folder / "songs" / name / "wet.wav", 0.5 * mixed(dry), SR)
    (folder / "chain.yaml").write_text("eq: {effect: peak}\npan: {effect: panning}\n")
    settings = ["chunk_duration=1.5", "chunk_overlap=0.5", "epochs=3", f"model={folder / 'chain.yaml'}", "device=cpu"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name in "ab":
            arguments = [f"data_dir={folder / 'songs' / name}", f"log_dir={folder / 'alone'}", *settings]
            assert main.main(arguments) == 0
    finally:
        torch.set_num_threads(threads)
    return folder / "songs", settings, {n: runs.load_checkpoint(folder / "alone" / n / "run_0") for n in "ab"}


def assert_same(logs: Path, alone: dict[str, dict]) -> None:
    """Bit by bit."""
    for name, expected in alone.items():
        state = runs.load_checkpoint(logs / name / "run_0")
        assert state["losses"] == expected["losses"]
        for key, raw in expected["best_model"].items():
            assert torch.equal(state["best_model"][key], raw), key


@clusters
def test_a_ray_cluster_leaves_the_same_runs(small: tuple, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    songs, settings, alone = small
    ray, port = Path(sys.executable).parent / "ray", "26379"
    short = tempfile.mkdtemp(prefix="ray")  # the paths of its sockets may have 107 characters
    start = [ray, "start", "--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": ""}
    head = subprocess.Popen([*start, f"--temp-dir={short}", "--block"], env=environment, stdout=subprocess.PIPE)
    try:
        assert head.stdout
        next(line for line in head.stdout if b"Ray runtime started" in line)
        fleet = [str(songs), str(tmp_path / "logs"), "--on", "ray", "--ray-address", f"127.0.0.1:{port}", *settings]
        assert fit_many.main(fleet) == 0
        assert_same(tmp_path / "logs", alone)
    finally:
        head.terminate()
        head.wait(60)


@clusters
def test_jobs_of_submitit_leave_the_same_runs(small: tuple, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    songs, settings, alone = small
    task = Task(
        tuple(fit_many.songs.find(str(songs), None, tmp_path / "scratch").songs),
        str(tmp_path / "logs"),
        fit_many.command_line.read_settings(settings),
        1,
    )
    with SlurmBackend(tmp_path / "jobs", 1, 0, cluster="local") as jobs:
        jobs.submit([task])
        (ended,) = jobs.finished(300.0)
    assert [result.state for result in ended.results] == [State.FINISHED] * 2 and not ended.lost
    together = [runs.load_checkpoint(tmp_path / "logs" / name / "run_0")["losses"] for name in "ab"]
    assert together == [pytest.approx(alone[name]["losses"], rel=1e-5) for name in "ab"]


@clusters
@pytest.mark.skipif(not is_installed(), reason="needs slurmctld, slurmd and munge, and root, who starts them")
def test_slurm_leaves_the_same_runs_and_names_the_songs_of_a_cancelled_job(small: tuple, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    songs, settings, alone = small
    (tmp_path / "slurm").mkdir()
    with one_node_slurm(tmp_path / "slurm"):
        fleet = [str(songs), str(tmp_path / "logs"), "--on", "slurm", "slurm.time=10", *settings]
        assert fit_many.main(fleet) == 0
        assert_same(tmp_path / "logs", alone)
        found = fit_many.songs.find(str(songs), None, tmp_path / "scratch").songs
        task = Task(tuple(found[:1]), str(tmp_path / "other"), fit_many.command_line.read_settings(settings), 1)
        with SlurmBackend(tmp_path / "jobs", 1, 0) as jobs:
            jobs.submit([task])
            (job,) = jobs._jobs
            job.cancel()
            (ended,) = jobs.finished(60.0)
        assert ended.task is task and f"job {job.job_id} ended without a result (JobState CANCELLED" in ended.lost


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty bucket of moto's server."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    Store("s3://bucket").fs.mkdir("bucket")
    yield "s3://bucket"
    server.stop()


def test_songs_and_results_in_s3(small: tuple, bucket: str, tmp_path: Path) -> None:
    songs, settings, alone = small
    fs = Store(bucket).fs
    fs.put(str(songs), "bucket/songs", recursive=True)
    fleet = [f"{bucket}/songs", f"{bucket}/logs", "--threads", "1", *settings]
    threads = torch.get_num_threads()
    try:
        assert fit_many.main([*fleet, "epochs=2"]) == 0
        assert fit_many.main(fleet) == 0
    finally:
        torch.set_num_threads(threads)
    fs.invalidate_cache()
    fs.get("bucket/logs", str(tmp_path / "logs"), recursive=True)
    assert_same(tmp_path / "logs", alone)
    assert read_json(tmp_path / "logs" / "summary.json")["counts"]["finished"] == 2
    assert read_json(tmp_path / "logs" / "a" / "run_0" / "meta.json")["target_path"] == f"{bucket}/songs/a/wet.wav"
