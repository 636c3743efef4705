"""The routes of the local web page, and the state behind them."""

from reknob.runtime.program import reason

import asyncio
import base64
import json
import secrets
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from torch import Tensor

from reknob.app.estimates import EstimateWork, check_estimator, estimators
from reknob.app.fits import CheckWork, FitWork, fit_options, models
from reknob.app.guard import SANDBOX, Guard
from reknob.app.jobs import Job, JobQueue
from reknob.app.live import Live, live_chain, rendered, voice
from reknob.app.points import Point, parse_point, real_number
from reknob.app.presets import DocumentSource, SetSource, Source, state_of
from reknob.app.sound import level_matched, wav
from reknob.app.uploads import Limits, Upload, Uploads
from reknob.data.pair_files import DEMO
from reknob.formats.exporters.registry import EXPORTERS, write_export
from reknob.runtime.errors import UsageError
from reknob.runtime.files import SHIPPED

STATIC = Path(__file__).with_name("static")
#: What the page shares with reports.
SHARED = {name: SHIPPED / "report" / "page" / name for name in ("look.css", "charts.css", "charts.js", "player.js")}
MOST_JSON, MOST_STREAMS, NEIGHBOURS = 1 << 18, 4, 6
DEMO_DRY, DEMO_WET = "demo-dry", "demo-wet"
T = TypeVar("T")


class Page:
    """All that a server holds: recordings, jobs, presets, streams.

    Args:
        folder: for what it writes, recordings and runs.
        sets: folders of preset sets.
        limits: of recordings.
    """

    def __init__(self, folder: Path, sets: Sequence[str | Path] = (), limits: Limits | None = None) -> None:
        self.folder, self.queue = folder, JobQueue()
        #: Opens the page, once per start of the server (see Guard).
        self.token = secrets.token_urlsafe(24)
        self.uploads = Uploads(folder / "uploads", limits)
        self.uploads.add_file(DEMO_DRY, "demo voice", next(DEMO.glob("dry.*")))
        self.uploads.add_file(DEMO_WET, "demo mix", next(DEMO.glob("wet.*")))
        self.sources: dict[str, Source] = {f"set{i}": SetSource(one) for i, one in enumerate(sets)}
        self.streams: dict[str, tuple[str, Live]] = {}
        self.executor = ThreadPoolExecutor(1, "warm-up")

    def warm_up(self) -> None:
        """Loads what the first sound needs: compiled kernels and the demo voice."""
        for source in list(self.sources.values())[:1]:
            self.live(source, self.uploads.get(DEMO_DRY), Point()).block()

    def live(self, source: Source, upload: Upload, point: Point) -> Live:
        """Live audio of a recording through a preset."""
        dry, chain = voice(upload, source.effect, source.lufs), live_chain(source.config, source.effect.sr)
        return Live(chain, dry, source.values(point), self.executor)

    def close(self) -> None:
        """Stops the jobs."""
        self.executor.shutdown(cancel_futures=True)
        self.queue.close()

    def source(self, key: str) -> Source:
        """The presets of a key: of a set, or of a job that has ended; UsageError for another key."""
        if key in self.sources:
            return self.sources[key]
        work = self.queue.get(key.removeprefix("job-")).work if key.startswith("job-") else None
        if not isinstance(work, (FitWork, EstimateWork)):
            raise UsageError("there are no such presets here; reload the page")
        self.sources[key] = DocumentSource(work.document(), work.title)
        return self.sources[key]

    def work(self, key: str, kind: type[T]) -> T:
        """The work of a job of a kind; UsageError for a job of another one."""
        work = self.queue.get(key).work
        if not isinstance(work, kind):
            raise UsageError(f"the job is a {work.kind}, which has no such thing")
        return work


def build_app(page: Page, port: int) -> Guard:
    """The application of a page, as it is served at a port of 127.0.0.1."""
    routes = Routes(page)
    get, post = ["GET"], ["POST"]
    app = Starlette(
        routes=[
            Route("/", lambda _: FileResponse(STATIC / "index.html"), methods=get),
            *(Route(f"/{name}", partial(_file, path), methods=get) for name, path in SHARED.items()),
            Route("/api/state", routes.state, methods=get),
            Route("/api/recordings", routes.upload, methods=post),
            Route("/api/checks", routes.check, methods=post),
            Route("/api/fits", routes.fit, methods=post),
            Route("/api/estimates", routes.estimate, methods=post),
            Route("/api/jobs/{job}", routes.job, methods=get),
            Route("/api/jobs/{job}/stop", routes.stop, methods=post),
            Route("/api/jobs/{job}/audio/{which}", routes.job_audio, methods=get),
            Route("/api/jobs/{job}/report", routes.report, methods=get),
            Route("/api/presets/{source}", routes.presets, methods=get),
            Route("/api/presets/{source}/nearest/{row:int}", routes.nearest, methods=get),
            Route("/api/presets/{source}/state", routes.preset_state, methods=post),
            Route("/api/presets/{source}/export", routes.export, methods=post),
            Route("/api/presets/{source}/render", routes.render, methods=post),
            Route("/api/streams", routes.open_stream, methods=post),
            Route("/api/streams/{stream}", routes.block, methods=post),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        exception_handlers={UsageError: _mistake, OSError: _mistake},
    )
    return Guard(app, port, page.token)


async def _file(path: Path, _: Request) -> Response:
    return FileResponse(path)


async def _mistake(_: Request, error: Exception) -> Response:
    """A user's mistake, or a full disk, as one line."""
    return JSONResponse({"error": str(error) if isinstance(error, UsageError) else reason(error)}, 400)


async def _json(request: Request) -> dict[str, Any]:
    """The JSON object of a request; UsageError for more than MOST_JSON bytes and anything else."""
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > MOST_JSON:
            raise UsageError(f"the request has more than {MOST_JSON} bytes")
    try:
        given = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        raise UsageError("the request is no JSON") from None
    if not isinstance(given, dict):
        raise UsageError("the request is no JSON object")
    return given


def _audio(content: bytes) -> Response:
    return Response(content, media_type="audio/wav")


class Routes:
    """The handlers: each reads a request, calls what does the work in a thread, and answers."""

    def __init__(self, page: Page) -> None:
        self.page = page

    async def state(self, _: Request) -> Response:
        """What the page needs when it is opened."""
        page = self.page
        return JSONResponse(
            {
                "models": models(),
                "estimators": estimators(),
                "exporters": {key: one.what for key, one in EXPORTERS.items()},
                "limits": {"bytes": page.uploads.limits.most_bytes},
                "recordings": [one.record() for one in page.uploads.all()],
                "sets": [{"key": key, "title": one.title} for key, one in page.sources.items()],
                "jobs": [{"key": one.key, "kind": one.work.kind, "state": one.state} for one in page.queue.all()],
            }
        )

    async def upload(self, request: Request) -> Response:
        """Receives a recording: its bytes, and its name in the query."""
        upload = await self.page.uploads.receive(request.query_params.get("name", ""), request.stream())
        return JSONResponse(upload.record())

    async def check(self, request: Request) -> Response:
        """Queues the check of a pair."""
        given = await _json(request)
        uploads = self.page.uploads
        return self._submitted(CheckWork(uploads.get(given.get("dry")), uploads.get(given.get("wet"))))

    async def fit(self, request: Request) -> Response:
        """Queues a fit."""
        given, uploads = await _json(request), self.page.uploads
        pair, options = (uploads.get(given.get("dry")), uploads.get(given.get("wet"))), fit_options(given)
        answer = self._submitted(FitWork(*pair, options, self.page.folder / "fits"))
        for job in self.page.queue.all():
            if isinstance(job.work, FitWork) and not job.is_open:
                job.work.release()
        return answer

    async def estimate(self, request: Request) -> Response:
        """Queues an estimate."""
        given = await _json(request)
        recording, chain = self.page.uploads.get(given.get("recording")), check_estimator(given.get("chain"))
        return self._submitted(EstimateWork(recording, chain))

    def _submitted(self, work: CheckWork | FitWork | EstimateWork) -> Response:
        return self._job_record(self.page.queue.submit(work), 0)

    def _job_record(self, job: Job, since: int) -> Response:
        return JSONResponse(job.record(since) | {"ahead": self.page.queue.ahead(job)})

    async def job(self, request: Request) -> Response:
        """How far a job is; `since` is the number of steps that the browser has."""
        since = request.query_params.get("since", "0")
        job = self.page.queue.get(request.path_params["job"])
        return self._job_record(job, int(since) if since.isdecimal() and len(since) < 9 else 0)

    async def stop(self, request: Request) -> Response:
        """Asks a job to stop."""
        job = self.page.queue.get(request.path_params["job"])
        job.stop()
        return self._job_record(job, 0)

    async def job_audio(self, request: Request) -> Response:
        """A recording of a job at the loudness of the players: dry, wet or so-far of a fit; of an estimate the demo
        voice, plain or applied.
        """
        which, work = request.path_params["which"], self.page.queue.get(request.path_params["job"]).work
        if isinstance(work, FitWork) and which in ("dry", "wet", "so-far"):
            return _audio(await asyncio.to_thread(lambda: _player(*work.audio(which))))
        if isinstance(work, EstimateWork) and which in ("plain", "applied"):
            upload = self.page.uploads.get(DEMO_DRY)
            return _audio(await asyncio.to_thread(lambda: _player(*work.audio(which, upload))))
        raise UsageError(f"audio/{which[:40]}: the job has no such recording")

    async def report(self, request: Request) -> Response:
        """The report of a fit."""
        path = await asyncio.to_thread(self.page.work(request.path_params["job"], FitWork).report)
        return FileResponse(path, media_type="text/html", headers={"content-security-policy": SANDBOX})

    def _source(self, request: Request) -> Source:
        return self.page.source(request.path_params["source"])

    async def presets(self, request: Request) -> Response:
        """A preset set: rows, columns, map."""
        return JSONResponse(await asyncio.to_thread(self._source(request).table))

    async def nearest(self, request: Request) -> Response:
        """The presets most like one."""
        return JSONResponse({"nearest": self._source(request).nearest(request.path_params["row"], NEIGHBOURS)})

    async def preset_state(self, request: Request) -> Response:
        """Values and curves where the sliders stand."""
        point = parse_point(await _json(request))
        return JSONResponse(await asyncio.to_thread(state_of, self._source(request), point))

    async def export(self, request: Request) -> Response:
        """The preset where the sliders stand, for another program: files, and what that program lacks."""
        given = await _json(request)
        return JSONResponse(
            await asyncio.to_thread(_export, self._source(request), parse_point(given.get("point")), given.get("to"))
        )

    async def render(self, request: Request) -> Response:
        """A recording through the preset where the sliders stand, as a file to keep."""
        given, source = await _json(request), self._source(request)
        upload, point = self.page.uploads.get(given.get("voice")), parse_point(given.get("point"))

        def render() -> bytes:
            y = rendered(source.effect, source.values(point), voice(upload, source.effect, source.lufs))
            return wav(y, source.effect.sr, exact=True)

        return _audio(await asyncio.to_thread(render))

    async def open_stream(self, request: Request) -> Response:
        """Begins live audio of a recording through a preset; the oldest of more than MOST_STREAMS ends."""
        given = await _json(request)
        source, point = self.page.source(str(given.get("source"))), parse_point(given.get("point"))
        upload = self.page.uploads.get(given.get("voice"))

        live, key = await asyncio.to_thread(self.page.live, source, upload, point), secrets.token_hex(8)
        while len(self.page.streams) >= MOST_STREAMS:
            del self.page.streams[next(iter(self.page.streams))]
        self.page.streams[key] = str(given.get("source")), live
        return JSONResponse({"key": key, "sr": live.chain.sr, "seconds": live.seconds})

    async def block(self, request: Request) -> Response:
        """The next block of live audio, after new places of the sliders (`point`) and a jump (`at`, in s).

        The samples are float32, dry, left and right one after the other. The header `x-place` is the place of the first
        one in s, `x-taken` says how many of the points have been taken over.
        """
        source, live = self.page.streams.get(request.path_params["stream"], ("", None))
        if live is None:
            raise UsageError("this stream has ended: press play again")
        given = await _json(request)
        point = parse_point(given["point"]) if given.get("point") is not None else None
        at = None if given.get("at") is None else real_number(given["at"], "at", 0, 1e6)

        def next_block() -> tuple[bytes, dict[str, str]]:
            if point is not None:
                live.set_values(self.page.source(source).values(point))
            if at is not None:
                live.jump(at)
            x, place = live.block()
            samples = np.ascontiguousarray(x.numpy(), dtype="<f4").tobytes()
            return samples, {"x-place": f"{place:.4f}", "x-taken": str(live.taken)}

        content, headers = await asyncio.to_thread(next_block)
        return Response(content, media_type="application/octet-stream", headers=headers)


def _player(x: Tensor, sr: int) -> bytes:
    return wav(level_matched(x, sr), sr)


def _export(source: Source, point: Point, to: object) -> dict[str, Any]:
    """The files of an export, base64, and what it lacks."""
    if not isinstance(to, str) or to not in EXPORTERS:
        raise UsageError(f"to={str(to)[:40]}: unknown format; known: {', '.join(EXPORTERS)}")
    with tempfile.TemporaryDirectory() as folder:
        paths, lacking = write_export(source.document(point), to, Path(folder) / f"preset{EXPORTERS[to].suffix}")
        files = [{"name": path.name, "content": base64.b64encode(path.read_bytes()).decode()} for path in paths]
    return {"files": files, "lacking": lacking}
