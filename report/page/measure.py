"""A run measured for its report, as plain numbers and text that JSON holds."""

import json
import math
import shlex
from datetime import datetime
from typing import Any

import torch
from torch import Tensor

from reknob import __version__
from reknob.data.chunks import cut_chunks
from reknob.data.pairs import Pair
from reknob.fitting.pruning import switches
from reknob.fitting.settings import FitSettings
from reknob.fitting.trial import CHUNKS, Losses, loudest
from reknob.formats.certainty import read_certainty
from reknob.formats.effects import read_effects
from reknob.report.page import curves
from reknob.report.page.parameters import parameters
from reknob.report.page.published import published
from reknob.report.page.source import FittedRun
from reknob.report.page.tracks import label_of, loudest_excerpt, record, tracks
from reknob.runtime.errors import UsageError
from reknob.runtime.settings import options_of

MOST_STEPS = 400  # of the curve of the loss
#: The terms of the losses in words.
TERMS = {
    "mss_lr": "spectra, left and right",
    "mss_ms": "spectra, mid and side",
    "mldr_lr": "dynamics, left and right",
    "mldr_ms": "dynamics, mid and side",
}
#: Settings that are left out: they say where files are, or what is written beside the result.
ELSEWHERE = {"chain", "dataset", "data_dir", "dry", "wet", "log_dir", "resume", "device", "memory_gb"}
ELSEWHERE |= {"keep_audio", "report"}


def measure(run: FittedRun, seconds: float) -> dict[str, Any]:
    """All that the page of a run shows; without what needs recordings where these cannot be read.

    Args:
        run: a run folder.
        seconds: length of the excerpt that is heard and measured.
    """
    content = described(run)
    content["curves"] = {
        "equaliser": curves.equaliser(run.chain, run.values),
        "others": curves.others(run.chain, run.values),
        "echoes": curves.echoes(run.chain, run.values),
        "decay": curves.decay(run.chain, run.values),
    }
    if run.pair is not None:
        _measure_sound(content, run, run.pair, seconds)
    return content


def described(run: FittedRun) -> dict[str, Any]:
    """What the files of a run say, without its recordings."""
    losses = [float(loss) for loss in run.meta["losses"] or ()]
    effects, provenance = read_effects(run.folder), run.document.get("provenance")
    return {
        "name": run.name,
        "names": ("dry", "fitted", "wet"),
        "about": None,
        "run": f"{run.name}/{run.folder.name}",
        "created": run.meta["created"].isoformat(sep=" ", timespec="minutes") if run.meta["created"] else "",
        "written": datetime.now().isoformat(sep=" ", timespec="minutes"),
        "version": __version__,
        "ended": run.meta["terminated_by"] or "",
        "problem": run.problem,
        "loss": {
            "name": run.settings.loss.name,
            "first": next(filter(math.isfinite, losses), None),
            "lowest": effects.loss if effects else min(filter(math.isfinite, losses), default=None),
            "steps": len(losses),
            **thinned(losses),
        },
        "removed": [label_of(name, list(effects.removed)) for name in effects.removed] if effects else [],
        "parameters": parameters(run, read_certainty(run.folder)),
        "published": {key: published()[key] for key in ("source", "count")},
        "findings": run.findings,
        "files": {"shift": run.meta["alignment_shift"], "sr": run.run.sr, "lufs": run.settings.lufs},
        "provenance": provenance if isinstance(provenance, dict) else {},
        "licence": run.document.get("licence", ""),
        "settings": changed(run.settings),
        # By its record, which also has the whole chain.
        "repeat": f"python scripts/reproduce.py {shlex.quote(f'{run.name}/{run.folder.name}')} --dry DRY --wet WET",
    }


def thinned(losses: list[float]) -> dict[str, Any]:
    """The loss over steps, at most MOST_STEPS of them: of every part of the steps the last."""
    step = max(-(-len(losses) // MOST_STEPS), 1)
    kept = list(range(step - 1, len(losses), step)) or list(range(len(losses)))
    return {"x": kept, "y": [round(losses[i], 5) if math.isfinite(losses[i]) else None for i in kept]}


def changed(settings: FitSettings) -> str:
    """The settings of a fit that are not the defaults, without the chain."""
    arguments = []
    for name, declared in options_of(FitSettings).items():
        value: object = settings
        for step in name.split("."):
            value = getattr(value, step)
        if name not in ELSEWHERE and value != declared.default:
            arguments.append(f"{name}={value if isinstance(value, str) else json.dumps(value)}")
    return ", ".join(arguments)


def _measure_sound(content: dict[str, Any], run: FittedRun, pair: Pair, seconds: float) -> None:
    """Adds what is measured on the recordings."""
    excerpt = loudest_excerpt(pair.wet, pair.sr, seconds)
    dry = pair.dry[:, excerpt.begin - excerpt.warm_up : excerpt.end]
    fitted, gains = curves.dynamics(run, dry, excerpt.warm_up)
    sounds = list(tracks(run, pair, excerpt, fitted))
    by_key = {track.key: track.x for track in sounds[:3]}
    spectra = curves.Spectra(by_key, pair.sr)
    content["tracks"] = record(sounds, pair.sr)
    content["excerpt"] = {
        "begin": round(excerpt.begin / pair.sr, 2),
        "seconds": round((excerpt.end - excerpt.begin) / pair.sr, 3),
        "whole": round(pair.wet.shape[-1] / pair.sr, 2),
    }
    content["curves"] |= {
        "dynamics": gains,
        "spectra": spectra.long_term(),
        "panorama": spectra.panorama(),
    }
    if run.is_fit:
        content["curves"]["difference"] = spectra.difference()
        content["loss"]["terms"] = _terms(run, by_key)
        content["matters"] = matters(run, pair)


@torch.no_grad()
def _terms(run: FittedRun, sounds: dict[str, Tensor]) -> list[dict[str, Any]]:
    """The terms of the loss of dry and of fitted beside wet, over the excerpt."""
    if sounds["wet"].shape[-1] < run.loss.least_samples:
        return []
    target, one, columns = run.loss.prepare(sounds["wet"][None]), torch.ones(1, 1), {}
    for name in ("dry", "fitted"):
        columns[name] = run.loss.terms(sounds[name].expand(2, -1)[None], target, one)[0].tolist()
    rows = zip(run.loss.term_names, columns["dry"], columns["fitted"], strict=True)
    return [{"name": TERMS.get(name, name), "dry": round(a, 4), "fitted": round(b, 4)} for name, a, b in rows]


def matters(run: FittedRun, pair: Pair) -> list[dict[str, Any]]:
    """By how much the loss rises without each effect, on the loudest chunks, largest first; [] where none fits."""
    effects = read_effects(run.folder)
    costs = effects.costs if effects else _costs(run, pair)
    ranked = sorted(((name, cost) for name, cost in costs.items() if math.isfinite(cost)), key=lambda item: -item[1])
    return [{"key": name, "label": label_of(name, list(costs)), "cost": round(cost, 5)} for name, cost in ranked]


def _costs(run: FittedRun, pair: Pair) -> dict[str, float]:
    settings, loss = run.settings, run.loss
    try:
        chunks = cut_chunks(pair, settings.chunk_duration, settings.chunk_overlap, loss.least_samples)
    except UsageError:
        return {}  # of a published run, whose pair may be shorter than a chunk
    losses = Losses(run.chain, loudest(chunks, CHUNKS), loss, torch.device("cpu"))
    try:
        reached = losses(run.raws)
        return {part.name: losses(run.raws | part.off) - reached for part in switches(run.chain)}
    finally:
        run.chain.eval()
