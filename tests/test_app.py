"""The local web page: what its server refuses, its queue, fits and estimates, presets, live audio."""

import asyncio
import base64
import json
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient
from takes import SR, take, write_pair

from reknob.app import fits
from reknob.app.guard import SANDBOX
from reknob.app.jobs import MOST_WAITING, Job, JobQueue, State
from reknob.app.live import BLOCK
from reknob.app.points import parse_point
from reknob.app.server import Page, build_app
from reknob.app.uploads import Limits, Uploads, shown
from reknob.data.audio import write_audio
from reknob.formats.preset_document import read_document
from reknob.runtime.errors import UsageError
from scripts import app as program

PORT = 8765
ORIGIN = f"http://127.0.0.1:{PORT}"
LIMITS = Limits(most_bytes=2_000_000, most_seconds=6.0)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    page = Page(tmp_path_factory.mktemp("app"), ["presets/own"], LIMITS)
    yield page
    page.close()


@pytest.fixture(scope="module")
def client(page: Page) -> TestClient:
    cookies = {f"reknob-{PORT}": page.token}
    return TestClient(build_app(page, PORT), base_url=ORIGIN, headers={"origin": ORIGIN}, cookies=cookies)


# What is refused (of requests: test_app_guard.py).


def sent(client: TestClient, path: Path, name: str = "") -> dict[str, Any]:
    """The answer to an upload."""
    return client.post("/api/recordings", params={"name": name or path.name}, content=path.read_bytes()).json()


@pytest.mark.parametrize(
    ("seconds", "sr", "name", "reason"),
    [
        (6.1, SR, "long.wav", "long.wav is longer than 0.1 minutes"),
        (4.0, 192_000, "large.wav", "large.wav: has more than 2 MB"),
        (1.0, SR, "take.exe", "take.exe: no suffix of an audio file"),
        (1.0, SR, "take", "take: no suffix of an audio file"),
        (0.0, SR, "empty.wav", "empty.wav is empty"),
    ],
)
def test_a_recording_beyond_the_limits_leaves_nothing(
    client: TestClient, page: Page, tmp_path: Path, seconds: float, sr: int, name: str, reason: str
) -> None:
    write_audio(tmp_path / "x.wav", torch.zeros(1, round(seconds * sr)), sr)
    before = page.uploads.all()
    assert sent(client, tmp_path / "x.wav", name)["error"].startswith(reason)
    assert page.uploads.all() == before
    assert len(list(page.uploads.folder.glob("*"))) == len(before) - 2  # without the demo pair


def test_what_is_no_audio_is_refused_without_a_path_of_the_server(client: TestClient, page: Page) -> None:
    answer = client.post("/api/recordings", params={"name": "song.mp3"}, content=b"<html>" * 100)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("song.mp3")
    assert str(page.folder) not in answer.text


def test_a_name_from_the_browser_is_shown_and_never_used_as_a_path(
    client: TestClient, page: Page, tmp_path: Path
) -> None:
    write_audio(tmp_path / "x.wav", take(0.5), SR)
    record = sent(client, tmp_path / "x.wav", "../../../etc/cron.d/voice\x00\n.wav")
    assert (record["name"], record["seconds"], record["channels"]) == ("voice.wav", 0.5, 1)
    assert page.uploads.get(record["key"]).path == page.folder / "uploads" / f"{record['key']}.wav"
    assert "path" not in record
    assert shown("C:\\fakepath\\a.wav") == "a.wav"
    assert fits.slug("../../etc/passwd") == "etc-passwd"
    assert fits.slug("…/..") == "fit"


def test_recordings_are_counted_while_they_arrive(tmp_path: Path) -> None:
    write_audio(tmp_path / "x.wav", take(0.2), SR)
    content = (tmp_path / "x.wav").read_bytes()
    uploads = Uploads(tmp_path / "uploads", Limits(most_files=2))

    async def slowly() -> AsyncIterator[bytes]:
        for i in range(0, len(content), 10_000):
            await asyncio.sleep(0)
            yield content[i : i + 10_000]

    async def three() -> list[object]:
        return await asyncio.gather(*(uploads.receive("x.wav", slowly()) for _ in range(3)), return_exceptions=True)

    results = asyncio.run(three())
    assert [str(r)[:20] for r in results if isinstance(r, UsageError)] == ["2 recordings are her"]
    assert len(list((tmp_path / "uploads").iterdir())) == len(uploads.all()) == 2


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/api/fits", {"dry": "demo-dry", "wet": "demo-wet", "model": "../../etc/passwd"}),
        ("/api/fits", {"dry": "demo-dry", "wet": "demo-wet", "steps": 10**7}),
        ("/api/fits", {"dry": "demo-dry", "wet": "demo-wet", "prune": "yes"}),
        ("/api/fits", {"dry": "demo-dry", "wet": "/etc/passwd"}),
        ("/api/checks", {"dry": ["demo-dry"], "wet": "demo-wet"}),
        ("/api/estimates", {"recording": "demo-wet", "chain": "../peq"}),
        ("/api/streams", {"source": "set0", "voice": "nobody", "point": {}}),
        ("/api/streams", {"source": "set9", "voice": "demo-dry", "point": {}}),
        ("/api/streams/none", {}),
        ("/api/presets/set0/state", {"row": 10**6}),
        ("/api/presets/set0/state", {"changes": {"comp.cmp_ratio": 0.1}}),
        ("/api/presets/set0/export", {"point": {}, "to": "../x"}),
        ("/api/presets/job-none/state", {}),
        ("/api/checks", [1, 2]),
        ("/api/checks", {"dry": "x" * 300_000}),
    ],
)
def test_a_wrong_request_is_answered_by_one_line(client: TestClient, page: Page, path: str, content: object) -> None:
    before = len(page.queue.all())
    answer = client.post(path, content=json.dumps(content))
    assert answer.status_code == 400
    assert "\n" not in answer.json()["error"]
    assert len(page.queue.all()) == before


@pytest.mark.parametrize(
    "given",
    [
        *(None, [], {"row": -1}, {"row": True}, {"row": 1.5}, {"morph": 2}, {"amount": float("nan")}, {"amount": "1"}),
        *({"components": [6]}, {"components": [0] * 9}, {"components": 1}, {"changes": [1]}, {"changes": {"a": None}}),
    ],
)
def test_no_point_is_made_of_anything_but_numbers_in_range(given: object) -> None:
    with pytest.raises(UsageError):
        parse_point(given)


# The queue.


class Task:
    """Work that waits until it may end or is stopped."""

    kind = "task"

    def __init__(self, error: Exception | None = None) -> None:
        self.begun, self.may_end, self.error, self.saw_stop = threading.Event(), threading.Event(), error, False

    def run(self, stopped: Callable[[], bool]) -> None:
        self.begun.set()
        while not self.may_end.is_set() and not stopped():
            time.sleep(0.001)
        self.saw_stop = stopped()
        if self.error:
            raise self.error

    def record(self, since: int) -> dict[str, Any]:
        return {}


def ended(job: Job) -> Job:
    for _ in range(5000):
        if not job.is_open:
            return job
        time.sleep(0.01)
    raise AssertionError(job.record())


def test_jobs_run_one_after_another_and_stop_between_steps() -> None:
    queue = JobQueue()
    first, second, third = (queue.submit(Task()) for _ in range(3))
    tasks = [job.work for job in (first, second, third)]
    assert tasks[0].begun.wait(5)
    assert [queue.ahead(job) for job in (first, second, third)] == [0, 1, 2]
    assert not tasks[1].begun.is_set()
    second.stop()
    first.stop()
    assert ended(first).state is State.STOPPED
    assert tasks[0].saw_stop
    assert ended(second).state is State.STOPPED
    assert not tasks[1].begun.is_set()
    tasks[2].may_end.set()
    assert ended(third).state is State.DONE
    queue.close()


def test_a_failure_is_told_and_the_next_job_runs(caplog: pytest.LogCaptureFixture) -> None:
    queue = JobQueue()
    jobs = [queue.submit(Task(error)) for error in (UsageError("a mistake"), KeyError("fault"), None)]
    for job in jobs:
        job.work.may_end.set()
    assert [ended(job).state for job in jobs] == [State.FAILED, State.FAILED, State.DONE]
    assert jobs[0].message == "a mistake"
    assert jobs[1].message == "internal error: KeyError: 'fault'"
    assert len(caplog.records) == 1  # of the fault, with its traceback
    queue.close()


def test_the_queue_is_bounded_and_closing_stops_what_runs() -> None:
    queue = JobQueue()
    running = queue.submit(Task())
    assert running.work.begun.wait(5)
    for _ in range(MOST_WAITING):
        queue.submit(Task())
    with pytest.raises(UsageError, match="8 jobs are waiting already"):
        queue.submit(Task())
    queue.close()
    assert running.state is State.STOPPED
    assert running.work.saw_stop


# Fits and estimates.


def finished(client: TestClient, key: str) -> dict[str, Any]:
    for _ in range(5000):
        job = client.get(f"/api/jobs/{key}").json()
        if job["state"] not in ("waiting", "running"):
            return job
        time.sleep(0.05)
    raise AssertionError(job)


def test_a_pair_is_checked_fitted_heard_exported_and_reported(
    client: TestClient, page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pair(tmp_path, dry=take().expand(2, -1))
    pair = {role: sent(client, tmp_path / f"{name}.wav")["key"] for role, name in (("dry", "take"), ("wet", "song"))}
    check = finished(client, client.post("/api/checks", json=pair).json()["key"])
    assert check["refusal"] == ""
    assert check["summary"].startswith("lag ")
    assert [finding["code"] for finding in check["findings"]] == ["mono_dry"]
    assert check["findings"][0].keys() == {"code", "severity", "text", "remedy"}
    assert str(page.folder) not in json.dumps(check)

    options = {"model": "eq_comp", "steps": 3, "start": False}
    key = client.post("/api/fits", json=pair | options).json()["key"]
    job = finished(client, key)
    assert (job["state"], job["step"], len(job["losses"]), job["title"]) == ("done", 3, 3, "song")
    assert [curve["title"] for curve in job["curves"]] == ["Equaliser", "Compressor and expander"]
    assert client.get(f"/api/jobs/{key}", params={"since": 2}).json()["losses"] == job["losses"][2:]
    sounds = [client.get(f"/api/jobs/{key}/audio/{which}").content for which in ("dry", "wet", "so-far")]
    assert all(sound.startswith(b"RIFF") for sound in sounds)
    assert len(set(sounds)) == 3

    document = read_document(page.folder / "fits" / "song" / "run_0" / "preset.json")
    state = client.post(f"/api/presets/job-{key}/state", json={}).json()
    values = {value["name"]: value["value"] for value in state["values"]}
    assert values["comp.makeup"] == pytest.approx(float(document.values["comp.makeup"]))
    assert values == {value["name"]: pytest.approx(value["value"]) for value in job["values"]}
    made = client.post(f"/api/presets/job-{key}/export", json={"point": {}, "to": "csv"}).json()
    assert b"comp.makeup" in base64.b64decode(made["files"][0]["content"])

    monkeypatch.setattr(fits, "write_report", lambda run, path, pair: path.write_text("<p>report") and path)
    report = client.get(f"/api/jobs/{key}/report")
    assert report.text == "<p>report"
    assert report.headers["content-security-policy"] == SANDBOX
    assert client.get(f"/api/jobs/{key}/audio/applied").status_code == 400


def test_a_pair_that_is_none_is_told_by_its_names(client: TestClient, page: Page, tmp_path: Path) -> None:
    write_pair(tmp_path, wet=take(3.0, seed=5).expand(2, -1))
    pair = {role: sent(client, tmp_path / f"{name}.wav")["key"] for role, name in (("dry", "take"), ("wet", "song"))}
    check = finished(client, client.post("/api/checks", json=pair).json()["key"])
    assert "song.wav" in check["refusal"]
    job = finished(client, client.post("/api/fits", json=pair | {"model": "eq_comp", "steps": 1}).json()["key"])
    assert job["state"] == "failed"
    assert "song.wav" in job["message"]
    assert str(page.folder) not in json.dumps([check, job])


def test_a_recording_is_estimated_and_its_estimate_heard(client: TestClient, tmp_path: Path) -> None:
    write_audio(tmp_path / "x.wav", take(3.0), SR)
    key = sent(client, tmp_path / "x.wav")["key"]
    early = client.post("/api/estimates", json={"recording": key, "chain": "dist"}).json()["key"]
    job = finished(client, early)
    assert job["state"] == "done"
    assert "one window" in job["remarks"][0]
    assert job["rows"][0].keys() >= {"name", "value", "low", "high", "unit", "note"}
    state = client.post(f"/api/presets/job-{early}/state", json={}).json()
    assert len(state["values"]) >= 1
    # A chain that scales its whole input cannot be streamed, and says so.
    stream = client.post("/api/streams", json={"source": f"job-{early}", "voice": key, "point": {}}).json()
    answers = [client.post(f"/api/streams/{stream['key']}", json={}) for _ in range(2 * SR // BLOCK + 2)]
    assert "render it instead" in answers[-1].json()["error"]


def test_table_map_and_neighbours(client: TestClient, page: Page) -> None:
    table = client.get("/api/presets/set0").json()
    n = len(page.source("set0").set.presets)
    assert len(table["rows"]) == len(table["map"]) == len(table["columns"]["comp.makeup"]["values"]) == n
    assert table["components"] == sorted(table["components"], reverse=True)
    nearest = client.get("/api/presets/set0/nearest/5").json()["nearest"]
    assert 5 not in [one["row"] for one in nearest]
    assert nearest == sorted(nearest, key=lambda one: one["distance"])


def test_the_stream_of_a_preset_takes_new_points_over(client: TestClient) -> None:
    stream = client.post("/api/streams", json={"source": "set0", "voice": "demo-dry", "point": {}}).json()
    path = f"/api/streams/{stream['key']}"

    def level(body: dict[str, object]) -> float:
        answer = client.post(path, json=body)
        x = torch.frombuffer(bytearray(answer.content), dtype=torch.float32).reshape(3, -1)
        return float(x[1:].square().mean().sqrt() / x[0].square().mean().sqrt())

    client.post(path, json={"at": 3.0})
    plain = level({})
    level({"point": {"changes": {"comp.makeup": 20.0}}})
    for _ in range(50):
        loud = level({})
        if loud > 3 * plain:
            break
        time.sleep(0.05)
    assert loud > 3 * plain


# The program.


def test_without_its_extra_the_program_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "reknob.app.server", raising=False)
    assert program.main(["--no-browser"]) == 2
    assert capsys.readouterr().err == (
        "app.py: uvicorn is not installed: pip install starlette uvicorn (the extra of reknob is called app)\n"
    )


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert program.main(["--no-browser", "--port", str(port), "--log-dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"app.py: --port {port}: Address already in use")


def test_a_browser_that_is_quicker_than_the_server_waits() -> None:
    with program.listening(0) as listener, socket.create_connection(listener.getsockname(), 1):
        pass
