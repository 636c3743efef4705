"""The page of an estimator's results: scores, errors by parameter, and examples to hear of every group."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reknob import __version__
from reknob.afx.effect import flatten, nest
from reknob.data.excerpts import Excerpts
from reknob.estimation.comparison import render_at_rms
from reknob.estimation.estimator import Estimator, synthesise
from reknob.estimation.scoring import ControlError
from reknob.report.page.curves import of_curve
from reknob.report.page.files import fill
from reknob.report.page.tracks import AUDIO_BYTES, Track, record
from reknob.runtime.files import write_text

#: Places of a ranking by what the estimate gains, from 0 (most) to 1 (least), and what they are called.
PLACES = {"gains most": 0.0, "in the middle": 0.5, "gains least": 1.0}
LABELS = {"dry": "unprocessed", "fitted": "estimated", "wet": "processed"}


@dataclass(frozen=True)
class Group:
    """Excerpts of one kind: Mel to the processed ones without an effect and with the estimate, and their numbers."""

    name: str
    none: Sequence[float]
    estimate: Sequence[float]
    numbers: Sequence[int] = field(repr=False)  # in the `Excerpts` that they are of


@dataclass(frozen=True)
class Example:
    """One excerpt of the page."""

    group: str
    title: str
    text: str
    tracks: list[Track] = field(repr=False)
    curves: list[dict[str, Any]] = field(repr=False)


#: Computes controls (1, P) of processed audio (1, 1, T).
Estimating = Callable[[Tensor], Tensor]


@torch.no_grad()
def examples(estimator: Estimator, excerpts: Excerpts, group: Group, estimate: Estimating) -> list[Example]:
    """Of a group the excerpt whose Mel the estimate lowers most, the one in the middle, and the one it lowers least."""
    gain = torch.tensor(group.none) - torch.tensor(group.estimate)
    order, found = gain.argsort(descending=True).tolist(), {}
    for words, place in PLACES.items():
        found.setdefault(order[round(place * (len(order) - 1))], words)
    return [_example(estimator, excerpts, group, at, words, estimate) for at, words in found.items()]


def _example(
    estimator: Estimator, excerpts: Excerpts, group: Group, at: int, words: str, estimate: Estimating
) -> Example:
    """The excerpt number `at` of a group."""
    device = next(estimator.parameters()).device
    item = {name: x[None].to(device) for name, x in excerpts[group.numbers[at]].items()}
    wet = synthesise(estimator, item)
    q = estimate(wet)
    sounds = {"dry": item["dry"][0], "fitted": render_at_rms(estimator, q, item["dry"][0]), "wet": wet[0]}
    tracks = [Track(key, LABELS[key], x.cpu().expand(2, -1)) for key, x in sounds.items()]
    chains = {"wet": (estimator.synthesis, item["q"]), "fitted": (estimator.analysis, q)}
    drawn: dict[str, dict[str, Any]] = {}
    for key, (chain, controls) in chains.items():
        values = nest({name: value[0].cpu() for name, value in flatten(chain.from_unit(controls)).items()})
        for curve in map(of_curve, chain.curves(values)):
            y = curve.pop("y")
            drawn.setdefault(curve["title"], curve | {"series": {}})["series"][key] = y
    text = f"Mel {group.none[at]:.3f} without an effect, {group.estimate[at]:.3f} with the estimate"
    return Example(group.name, words, text, tracks, list(drawn.values()))


def write_examples_page(
    path: Path,
    title: str,
    found: Sequence[Example],
    *,
    table: tuple[Sequence[str], Sequence[Sequence[str]]],
    sr: int,
    errors: Sequence[ControlError] = (),
    notes: Mapping[str, str] | None = None,
) -> Path:
    """Writes examples, with a table of scores and the errors by parameter, as one HTML file; its path."""
    tracks, shown = [], []
    for number, each in enumerate(found):
        rows = record(each.tracks, sr, AUDIO_BYTES / len(found))
        rows = [row | {"key": f"{number}-{row['key']}"} for row in rows]
        tracks += rows
        shown.append(
            {
                "group": each.group,
                "title": each.title,
                "text": each.text,
                "curves": each.curves,
                "seconds": each.tracks[0].x.shape[-1] / sr,
                "tracks": [{key: row[key] for key in ("key", "label", "gain", "own")} for row in rows],
            }
        )
    content = {
        "title": title,
        "head": list(table[0]),
        "rows": [list(row) for row in table[1]],
        "errors": [each._asdict() for each in errors],
        "examples": shown,
        "notes": dict(notes or {}),
        "tracks": tracks,
        "written": datetime.now().isoformat(sep=" ", timespec="minutes"),
        "version": __version__,
    }
    styles, scripts = ("look.css", "charts.css", "report.css"), ("charts.js", "player.js", "examples.js")
    write_text(path, fill("examples.html", f"{title}: results", content, styles, scripts))
    return path
