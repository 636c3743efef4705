"""Fleets on a Ray cluster, by submitit, by a real Slurm of one node, and in a stand-in for S3, where these are here.

    REKNOB_CLUSTERS=60 pytest -s tests/test_fleet_clusters.py

starts clusters, and fits 60 songs on each; -s shows the songs an hour.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
from reknob.fleet.task import RUNNING, Task, tasks_of
from reknob.formats import runs
from reknob.runtime.errors import UsageError
from reknob.runtime.files import read_json
from scripts import fit_many

COUNT = max(int(os.environ.get("REKNOB_CLUSTERS", "2")), 2)
NAMES = [f"song{number:02d}" for number in range(COUNT)]
LOOPS = Path(__file__).parents[1] / "afx" / "kernels" / "numba_cpu" / "__pycache__"  # compiled by the fits alone
PER_TASK = str(-(-COUNT // 4))  # of jobs that load torch anew
# Their processes load torch anew, several seconds each, for which the suite has no time.
clusters = pytest.mark.skipif("REKNOB_CLUSTERS" not in os.environ, reason="set REKNOB_CLUSTERS=2 to start clusters")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], dict[str, dict]]:
    """A folder of songs, settings that fit them quickly, and their checkpoints by main.py with one thread."""
    folder = tmp_path_factory.mktemp("clusters")
    for seed, name in enumerate(NAMES):
        dry = take(1.5, seed)
        (folder / "songs" / name).mkdir(parents=True)
        write_audio(folder / "songs" / name / "dry.wav", dry, SR)
        write_audio(folder / "songs" / name / "wet.wav", 0.5 * mixed(dry), SR)
    (folder / "chain.yaml").write_text("eq: {effect: peak}\npan: {effect: panning}\n")
    settings = ["chunk_duration=1.2", "chunk_overlap=0.2", "epochs=3", f"model={folder / 'chain.yaml'}", "device=cpu"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name in NAMES:
            arguments = [f"data_dir={folder / 'songs' / name}", f"log_dir={folder / 'alone'}", *settings]
            assert main.main(arguments) == 0
    finally:
        torch.set_num_threads(threads)
    return folder / "songs", settings, {n: runs.load_checkpoint(folder / "alone" / n / "run_0") for n in NAMES}


def assert_same(logs: Path, alone: dict[str, dict]) -> None:
    """Bit by bit."""
    for name, expected in alone.items():
        state = runs.load_checkpoint(logs / name / "run_0")
        assert state["losses"] == expected["losses"]
        for key, raw in expected["best_model"].items():
            assert torch.equal(state["best_model"][key], raw), key


def kill_a_worker(logs: Path, killed: list[str], with_node: bool) -> None:
    """Once about half of the songs are fitted, kills a worker while it fits one, as it says of itself.

    With its node the process of Ray that started it is killed, without which the node is lost.
    """
    while not killed:
        time.sleep(0.01)
        if len(list(logs.glob("*/run_0/parametrised.pth"))) < (COUNT - 1) // 2:
            continue
        for path in (logs / RUNNING).glob("*.json"):
            with suppress(OSError, ValueError, UsageError):
                beat = read_json(path)
                if not (logs / beat["songs"][0]["id"] / "run_0" / "parametrised.pth").exists():
                    pid = int(beat["worker"].rpartition(":")[2])
                    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                    if with_node:
                        assert Path(f"/proc/{parent}/comm").read_text() == "raylet\n"
                        os.kill(parent, signal.SIGKILL)
                    os.kill(pid, signal.SIGKILL)
                    killed.append(beat["worker"])
                    return


@contextmanager
def ray_cluster(cpus: int, nodes: int) -> Iterator[str]:
    """The address of a Ray cluster whose head has some CPUs, and further nodes on this machine one each."""
    ray, address = Path(sys.executable).parent / "ray", "127.0.0.1:26379"
    short = tempfile.mkdtemp(prefix="ray")  # the paths of its sockets may have 107 characters
    head = ["--head", f"--port={address.rpartition(':')[2]}", "--include-dashboard=false", f"--temp-dir={short}"]
    started = []
    try:
        for arguments in ([*head, f"--num-cpus={cpus}"], *[[f"--address={address}", "--num-cpus=1"]] * nodes):
            started.append(ray_node([ray, "start", *arguments, "--block"]))
        yield address
    finally:
        for node in reversed(started):
            node.terminate()
            node.wait(60)


def ray_node(command: list) -> subprocess.Popen:
    """A node that runs; Ray gives itself 30 s to start, which a busy machine may need more than once."""
    # Its workers would have a lower priority than everything else on this machine.
    names = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "PYTHONPATH": ""}
    for _ in range(4):
        node = subprocess.Popen(command, env=os.environ | names, stdout=subprocess.PIPE)
        assert node.stdout
        if any(b"Ray runtime started" in line for line in node.stdout):
            return node
        assert node.wait(60) != 0
    raise RuntimeError(f"{command} does not start")


@clusters
@pytest.mark.parametrize("workers", ["1", "2"])
def test_local_workers_leave_the_same_runs(workers: str, small: tuple, tmp_path: Path) -> None:
    songs, settings, alone = small
    fleet = [str(songs), str(tmp_path / "logs"), "--workers", workers, "--threads", "1", *settings]
    threads = torch.get_num_threads()
    try:
        assert fit_many.main(fleet) == 0
    finally:
        torch.set_num_threads(threads)
    assert_same(tmp_path / "logs", alone)


@clusters
@pytest.mark.parametrize("nodes", [0, 2], ids=["worker", "node"])
def test_a_ray_cluster_that_loses_a_worker_leaves_the_same_runs(
    nodes: int, small: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    songs, settings, alone = small
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(LOOPS))
    with ray_cluster(cpus=0 if nodes else 2, nodes=nodes) as address:
        fleet = [str(songs), str(tmp_path / "logs"), "--on", "ray", "--ray-address", address, *settings]
        killed: list[str] = []
        threading.Thread(target=kill_a_worker, args=(tmp_path / "logs", killed, nodes > 0), daemon=True).start()
        assert fit_many.main(fleet) == 0
        assert killed, "no worker was killed"
        assert_same(tmp_path / "logs", alone)
        attempts = [song["attempts"] for song in read_json(tmp_path / "logs" / "summary.json")["songs"]]
        assert sorted(attempts) == [1] * (COUNT - 1) + [2]


@clusters
def test_jobs_of_submitit_leave_the_same_runs(small: tuple, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    songs, settings, alone = small
    found = fit_many.songs.find(str(songs), None, tmp_path / "scratch").songs
    read, logs = fit_many.command_line.read_settings(settings), str(tmp_path / "logs")
    waiting = tasks_of(found, logs, read, each=-(-COUNT // 2), threads=1)
    with SlurmBackend(tmp_path / "jobs", 1, 0, cluster="local") as jobs:
        jobs._executor.update_parameters(timeout_min=30)  # of 2, the default, a busy machine needs one to load torch
        jobs.submit(waiting)
        while waiting:
            for ended in jobs.finished(1.0):
                assert {result.state for result in ended.results} == {State.FINISHED} and not ended.lost
                waiting.remove(ended.task)
    assert_same(tmp_path / "logs", alone)


@clusters
@pytest.mark.skipif(not is_installed(), reason="needs slurmctld, slurmd and munge, and root, who starts them")
def test_slurm_leaves_the_same_runs_and_names_the_songs_of_a_cancelled_job(small: tuple, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    songs, settings, alone = small
    (tmp_path / "slurm").mkdir()
    with one_node_slurm(tmp_path / "slurm"):
        fleet = [str(songs), str(tmp_path / "logs"), "--on", "slurm", "--per-task", PER_TASK, "slurm.time=10"]
        assert fit_many.main([*fleet, *settings]) == 0
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
    assert read_json(tmp_path / "logs" / "summary.json")["counts"]["finished"] == COUNT
    name = NAMES[0]
    target = read_json(tmp_path / "logs" / name / "run_0" / "meta.json")["target_path"]
    assert target == f"{bucket}/songs/{name}/wet.wav"
