"""Jobs on a processed recording alone: the estimate of its settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from reknob.afx.effect import flatten, nest
from reknob.app.curves import curves_of
from reknob.app.live import voice
from reknob.app.uploads import Upload
from reknob.data.audio import read_audio
from reknob.estimation.comparison import render_at_rms
from reknob.estimation.estimate import as_record, estimate_recording
from reknob.estimation.estimator import ESTIMATORS, load_estimator
from reknob.estimation.preset import estimate_document
from reknob.formats.preset_document import PresetDocument
from reknob.runtime.errors import UsageError


def estimators() -> list[str]:
    """The chains that there is an estimator for."""
    return sorted(path.stem for path in ESTIMATORS.glob("*.pt"))


def check_estimator(name: object) -> str:
    """The name of an estimator; UsageError for another one."""
    if name not in estimators():
        raise UsageError(f"chain={str(name)[:40]}: unknown; known: {', '.join(estimators())}")
    return str(name)


class EstimateWork:
    """The settings of a chain estimated from a recording.

    Args:
        chain: a name of `estimators`.
    """

    kind = "estimate"

    def __init__(self, recording: Upload, chain: str) -> None:
        self.recording, self.chain = recording, chain
        self.title = f"{Path(recording.name).stem} ({chain})"
        self._result: dict[str, Any] = {"rows": [], "remarks": [], "curves": [], "windows": 0}
        self._made: PresetDocument | None = None
        self._render: Callable[[Tensor], Tensor] | None = None
        self._sr = 44100

    def run(self, stopped: Callable[[], bool]) -> None:
        checkpoint = ESTIMATORS / f"{self.chain}.pt"
        estimator, _ = load_estimator(checkpoint)
        estimate = estimate_recording(estimator, *read_audio(self.recording.path))
        values = estimator.analysis.from_unit(estimate.q)
        first = nest({name: value[0].detach() for name, value in flatten(values).items()})
        rows = [{"name": name, **entry} for name, entry in as_record(estimator, estimate).items()]
        self._made = estimate_document(estimator, estimate, self.recording.path, checkpoint)
        self._sr, self._render = estimator.settings["sr"], lambda x: render_at_rms(estimator, estimate.q, x)
        self._result = {
            "rows": rows,
            "remarks": estimate.remarks,
            "curves": curves_of(estimator.analysis, first),
            "windows": estimate.windows,
            "calibrated": estimate.wide is not None,
        }

    def record(self, since: int) -> dict[str, Any]:
        own = {"title": self.title, "chain": self.chain, "recording": self.recording.key}
        return own | self._result | {"complete": self._made is not None}

    def document(self) -> PresetDocument:
        """The estimate as a preset document; UsageError before the end."""
        if self._made is None:
            raise UsageError("the estimate is not there yet: wait a moment")
        return self._made

    def audio(self, which: str, upload: Upload) -> tuple[Tensor, int]:
        """Another recording, as it is or `applied`: through the estimated chain, (C, T), and the sample rate in Hz."""
        if self._made is None or self._render is None:
            raise UsageError("the estimate is not there yet: wait a moment")
        dry = voice(upload, self._made.effect, None)
        return (self._render(dry) if which == "applied" else dry), self._sr
