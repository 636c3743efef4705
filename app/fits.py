"""Jobs on a dry/wet pair: its check, and a fit that shows how far it is."""

import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

from torch import Tensor

from reknob.afx import kernels
from reknob.afx.effect import Effect, Knobs, Tensors, Values, flatten
from reknob.app.curves import curves_of
from reknob.app.live import rendered
from reknob.app.points import whole_number
from reknob.app.uploads import Upload
from reknob.data.doctor import PairCheck
from reknob.data.pair_files import PairFiles
from reknob.data.pairs import Pair, PairError, load_pair
from reknob.fitting.fit import Fit, Terms
from reknob.fitting.session import Observer, Outcome, Session, Song
from reknob.fitting.settings import CHAINS, FitSettings
from reknob.formats.applied import LUFS
from reknob.formats.preset_document import DOCUMENT, PresetDocument, read_document
from reknob.report.page import REPORT, write_report
from reknob.runtime.errors import UsageError
from reknob.runtime.settings import settings_from

SR = 44100  # Hz, of a fit
MOST_STEPS = 5000
CHUNK_S, WARM_UP_S, WARM_UP_SHARE = 12.0, 5.0, 0.4
SHOW_EVERY_S = 0.4  # between two sets of curves
SLUG_CHARACTERS = 40


def models() -> list[str]:
    """The names of the chains that may be fitted."""
    return sorted(path.stem for path in CHAINS.glob("*.yaml"))


def title_of(dry: Upload, wet: Upload) -> str:
    """What a pair is called."""
    return Path(wet.name).stem or Path(dry.name).stem


def slug(title: str) -> str:
    """A title as the name of a folder: letters, digits and dashes of ASCII, so that it is never a path."""
    return re.sub(r"[^A-Za-z0-9]+", "-", title).strip("-")[:SLUG_CHARACTERS] or "fit"


class CheckWork:
    """The check of a pair, before a fit."""

    kind = "check"

    def __init__(self, dry: Upload, wet: Upload) -> None:
        self.dry, self.wet = dry, wet
        self._check, self._summary, self._refusal = PairCheck(), "", ""

    def run(self, stopped: Callable[[], bool]) -> None:
        try:
            self._check = load_pair(PairFiles(self.dry.path, self.wet.path, slug(self.wet.name)), SR, LUFS).check
            self._summary = self._check.summary()
        except PairError as error:
            self._check, self._refusal = error.check, named(str(error), self.dry, self.wet)

    def record(self, since: int) -> dict[str, Any]:
        findings = [
            {key: named(text, self.dry, self.wet) for key, text in asdict(finding).items()}
            for finding in self._check.findings
        ]
        return {
            "dry": self.dry.key,
            "wet": self.wet.key,
            "findings": findings,
            "summary": self._summary,
            "refusal": self._refusal,
        }


def named(text: str, *uploads: Upload) -> str:
    """A message with the browser's names of recordings in the place of their paths."""
    for upload in uploads:
        text = text.replace(str(upload.path), upload.name).replace(upload.path.name, upload.name)
    return text


@dataclass(frozen=True)
class FitOptions:
    """What the page lets a user choose of a fit."""

    model: str = "diffvox"
    steps: int = 150
    start: bool = True
    prune: bool = False
    certainty: bool = False


def fit_options(given: dict[str, Any]) -> FitOptions:
    """The options of a request; UsageError for those that no fit has."""
    defaults = FitOptions()
    model = given.get("model", defaults.model)
    # Only the names of cfg/model: `FitSettings.model` also takes paths.
    if model not in models():
        raise UsageError(f"model={str(model)[:40]}: unknown; known: {', '.join(models())}")
    switches = {name: given.get(name, getattr(defaults, name)) for name in ("start", "prune", "certainty")}
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise UsageError(f"{name}={str(value)[:40]}: give true or false")
    return FitOptions(model, whole_number(given.get("steps", defaults.steps), "steps", 1, MOST_STEPS), **switches)


def settings_of(options: FitOptions, folder: Path, seconds: float) -> FitSettings:
    """The settings of a fit of `seconds` s: chunks of 12 s with 5 s of warm-up, shorter ones where the pair is."""
    chunk = min(CHUNK_S, int(100 * seconds) / 100)
    settings = settings_from(
        FitSettings,
        {
            "model": options.model,
            "epochs": options.steps,
            "start": "signals" if options.start else "defaults",
            "prune": options.prune,
            "certainty": options.certainty,
            "optimiser": {"method": "annealed"},
            "log_dir": str(folder),
            "chunk_duration": chunk,
            "chunk_overlap": min(WARM_UP_S, round(WARM_UP_SHARE * chunk, 2)),
        },
    )
    settings.read_model()
    settings.check()
    return settings


class FitWork(Observer):
    """A fit of a pair, which is an observer of its session as well.

    Args:
        folder: for the run folders of all fits.
    """

    kind = "fit"

    def __init__(self, dry: Upload, wet: Upload, options: FitOptions, folder: Path) -> None:
        self.dry, self.wet, self.options, self.folder = dry, wet, options, folder
        self.title = title_of(dry, wet)
        self.run_folder: Path | None = None
        self.pair: Pair | None = None
        self._settings: FitSettings | None = None
        self._lock = Lock()
        self._losses: list[float] = []
        self._raws: Tensors = {}
        self._values: list[dict[str, Any]] = []
        self._curves: list[dict[str, Any]] = []
        self._first_curves: list[dict[str, Any]] = []
        self._shown = 0  # how often
        self._shown_at = 0.0
        self._phase = "reading the pair and a start from it: a minute or so" if options.start else "reading the pair"
        self._heard: tuple[int, Tensor] | None = None  # the state so far, by the number of steps

    def run(self, stopped: Callable[[], bool]) -> None:
        self._settings = settings_of(self.options, self.folder, min(self.dry.seconds, self.wet.seconds))
        session = Session(self._settings, (self,))
        name = slug(self.title)
        (song,) = session.fit([(self.folder, PairFiles(self.dry.path, self.wet.path, name))], stopped)
        if song.outcome is Outcome.FAILED:
            reason = named(song.reason, self.dry, self.wet)
            raise (RuntimeError if song.is_fault else UsageError)(reason.removeprefix(f"{name}: "))

    def begin(self, song: Song) -> None:
        """Of the observer: the pair is loaded, and its start found."""
        run = song.open_run
        self.pair, self.run_folder = run.pair, run.path
        compiles = run.device.type == "cpu" and not kernels.compiled()
        self._phase = "compiling the sample loops: a minute, once" if compiles else "fitting"

    def step(self, song: Song, fit: Fit, terms: Terms) -> None:
        """Of the observer: records the loss, and at times the curves."""
        track = song.open_run.track
        with self._lock:
            self._losses.append(terms["loss"])
            self._raws = track.best.raws
        if time.monotonic() - self._shown_at > SHOW_EVERY_S:
            self._show(track.columns.split(track.raws))
            self._shown_at = time.monotonic()
        self._phase = "finishing" if track.has_ended else "fitting"

    def end(self, song: Song) -> None:
        """Of the observer: the run folder is complete, with the best values, after effects were removed."""
        if song.run is not None and song.open_run.track.best.raws:
            with self._lock:
                self._raws, self._heard = song.open_run.track.best.raws, None
            self._show(self._raws)
        self._phase = "ended"

    @cached_property
    def _chain(self) -> Effect:
        # Not the chain of the fit, which is in training mode in another thread.
        assert self._settings is not None
        return self._settings.build_chain().eval()

    def _values_of(self, raws: Tensors) -> Values:
        knobs = Knobs(self._chain).requires_grad_(False)
        knobs.load_state_dict({name: raw.cpu() for name, raw in raws.items()}, strict=False)
        return knobs()

    def _show(self, raws: Tensors) -> None:
        values = self._values_of(raws)
        curves, flat = curves_of(self._chain, values), flatten(values)
        table = [
            {"name": name, "value": float(flat[name]), "unit": p.unit}
            for name, p in self._chain.walk()
            if p.preset and not p.shape
        ]
        with self._lock:
            self._curves, self._values = curves, table
            self._first_curves = self._first_curves or curves
            self._shown += 1

    def record(self, since: int) -> dict[str, Any]:
        with self._lock:
            return {
                "title": self.title,
                "dry": self.dry.key,
                "wet": self.wet.key,
                "phase": self._phase,
                "steps": self.options.steps,
                "step": len(self._losses),
                "losses": [round(loss, 5) for loss in self._losses[since:]],
                "lowest": min(self._losses, default=None),
                "values": self._values,
                "curves": self._curves,
                "curves_before": self._first_curves,
                "shown": self._shown,
                "audible": bool(self._raws) and self.pair is not None,
                "complete": self.document_path is not None,
            }

    def audio(self, which: str) -> tuple[Tensor, int]:
        """The aligned dry or wet recording, or the best state so far, (C, T), and the sample rate in Hz."""
        pair = self.pair
        if pair is None:
            raise UsageError("the recordings are not in memory: wait until they are read, or fit the pair again")
        if which in ("dry", "wet"):
            return getattr(pair, which), pair.sr
        with self._lock:
            raws, count, heard = self._raws, len(self._losses), self._heard
        if not raws:
            raise UsageError("no step has been taken yet: wait a moment")
        if heard is None or heard[0] != count:
            heard = count, rendered(self._chain, self._values_of(raws), pair.dry)
            self._heard = heard
        return heard[1], pair.sr

    def release(self) -> None:
        """Lets go of the audio, which the page does not play any more."""
        self.pair = self._heard = None

    @property
    def document_path(self) -> Path | None:
        """The preset document of a fit that has ended."""
        path = self.run_folder / DOCUMENT if self.run_folder and self._phase == "ended" else None
        return path if path and path.is_file() else None

    def document(self) -> PresetDocument:
        """The preset document; UsageError before the end."""
        if self.document_path is None:
            raise UsageError("the fit has no preset yet: wait for its end, or stop it")
        return replace(read_document(self.document_path), name=self.title[:200])

    def report(self) -> Path:
        """The report of the run, which is written when it is first asked for; UsageError before the end."""
        if self.document_path is None or self.run_folder is None:
            raise UsageError("the fit has no report yet: wait for its end, or stop it")
        path = self.run_folder / REPORT
        return path if path.is_file() else write_report(self.run_folder, path, pair=self.pair)
