"""The public API: fits, presets and estimates as objects that hold plain numbers and render audio."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reknob.afx.amount import MOST
from reknob.afx.effect import Effect, Values
from reknob.afx.registry import build
from reknob.data.audio import read_audio
from reknob.data.doctor import Finding
from reknob.data.pair_files import PairFiles
from reknob.data.pairs import Pair
from reknob.data.rendering import CHAIN, render_recording
from reknob.estimation.estimate import as_record, estimate_recording
from reknob.estimation.estimator import ESTIMATORS, load_estimator
from reknob.fitting.fit import Fit as Descent
from reknob.fitting.fit import Terms, run
from reknob.fitting.order import ordered
from reknob.fitting.recipe import Recipe
from reknob.fitting.run_folder import RunFolder, begin_run
from reknob.fitting.settings import FitSettings
from reknob.fitting.track import TrackState
from reknob.formats import runs
from reknob.formats.applied import LUFS, input_loudness, load_chain
from reknob.formats.effects import EffectsRecord
from reknob.runtime.errors import UsageError
from reknob.runtime.files import user_path
from reknob.runtime.settings import settings_from

Audio = Tensor | np.ndarray
#: Plain numbers, lists of them for matrices, by the chain's names: {"comp": {"attack": 13.3, …}, …}.
Numbers = dict[str, Any]


def _to_numbers(values: Values) -> Numbers:
    """Values as plain numbers and lists, which a chain takes as well as tensors."""
    return {
        name: _to_numbers(value) if isinstance(value, dict) else value.detach().cpu().tolist()
        for name, value in values.items()
    }


@dataclass(frozen=True)
class Processor:
    """A chain of effects with one set of values.

        chain = reknob.build({"eq": {"effect": "peak"}, "pan": {"effect": "panning"}}, sr=44100)
        processor = reknob.Processor(chain, {"eq": {"gain": 3, "freq": 1000, "Q": 0.7}, "pan": {"pan": 0.5}})
        y = processor.render(x, sr=48000)

    Args:
        chain: the effects, at their sample rate in Hz, `chain.sr`.
        tensors: values in the declared units, as `chain` takes them: tensors, or plain numbers and lists, in dicts by
            the chain's names. They are checked, and tensors from then on.
        lufs: loudness in LUFS that `render` brings its input to by default; None leaves its level.

    Raises:
        UsageError: plain values that the chain does not have, of another shape or out of range.
    """

    chain: Effect
    tensors: Values = field(repr=False)
    lufs: float | None = LUFS

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", self.chain.tensors(self.tensors, torch.empty(1)))

    @property
    def values(self) -> Numbers:
        """The values in the declared units, as plain numbers and lists."""
        return _to_numbers(self.tensors)

    def render(
        self,
        x: Audio,
        sr: int,
        *,
        lufs: float | None | str = "preset",
        output_loudness: float | str = CHAIN,
        tail: float | str = 0.0,
        mix: float = 1.0,
        stereo: bool = False,
    ) -> Tensor:
        """A recording through the chain, by default in its own length and at the chain's own level.

        Args:
            x: (T,) or (C, T), full scale 1; channels are averaged, unless `stereo`.
            sr: sample rate of `x` in Hz; the output has it too.
            lufs: loudness in LUFS that the input is brought to first; by default that of the recordings that the
                preset was fitted to, -18 as a rule. None leaves its level.
            output_loudness: of the output in LUFS; "keep" for that of `x`, "chain" for what the chain makes of it.
            tail: s of silence that follow the recording; "auto" for as many as the output takes to fall by 60 dB.
            mix: share of the chain's output, 0 to 1; the rest is its input.
            stereo: whether two channels are kept, as of a fit with `stereo_dry`; mono is copied to both.

        Returns:
            (2, T + tail) float32 for a chain that ends in stereo.

        Raises:
            UsageError: audio of other dimensions or without samples, a silent input whose loudness cannot be
                normalised, and `stereo` for a chain that takes mono.
        """
        if x.ndim not in (1, 2) or not min(x.shape) or (x.ndim == 2 and x.shape[0] > x.shape[1]):
            raise UsageError(f"x has the shape {tuple(x.shape)}; give audio (T,) or (C, T)")
        return render_recording(
            self.chain,
            self.tensors,
            torch.as_tensor(x).float().reshape(-1, x.shape[-1]),
            sr,
            lufs=self.lufs if isinstance(lufs, str) else lufs,
            output=output_loudness,
            tail=tail,
            mix=mix,
            stereo=stereo,
        )


@dataclass(frozen=True)
class Fit(Processor):
    """A chain fitted to a pair by `fit`; `values` and `render` are those of the step of lowest loss."""

    recipe: Recipe = field(repr=False, kw_only=True)
    pair: Pair = field(repr=False, kw_only=True)
    track: TrackState = field(repr=False, kw_only=True)

    @property
    def loss(self) -> float:
        """The lowest loss; infinite before the first step."""
        return self.track.best.loss

    @property
    def losses(self) -> list[float]:
        """The loss of every step, before its parameters moved."""
        return list(self.track.losses)

    @property
    def effects(self) -> EffectsRecord | None:
        """What every effect is worth, and which were removed; None without `prune=True`."""
        return self.track.effects

    @property
    def findings(self) -> list[Finding]:
        """Results of the check of the pair: alignment, polarity, drift, levels, …; each prints as a line."""
        return list(self.pair.check.findings)

    def save(self, folder: str | Path) -> Path:
        """Writes a run folder <folder>/run_<N>, as `main.py` does: settings, record, checkpoint, values, audio.

        Returns:
            the run folder, which `load_run` reads.

        Raises:
            UsageError: a folder that cannot be written.
        """
        parent = user_path(folder)
        path = runs.new_run(parent.parent, parent.name)
        lock = runs.lock(path)
        begin_run(path, self.pair, self.recipe)
        ended = None if self.track.has_ended else "interrupted"
        RunFolder(path, self.pair, self.track, self.recipe, lock).close(ended)
        return path


def fit(
    dry: str | Path,
    wet: str | Path,
    *,
    steps: int = 400,
    method: str = "annealed",
    loss: str | Mapping[str, Any] = "vocal",
    on_step: Callable[[int, Terms], None] | None = None,
    stopped: Callable[[], bool] | None = None,
    **settings: Any,  # noqa: ANN401 - they are checked by their declarations
) -> Fit:
    """Fits a chain to a dry/wet pair.

        fit = reknob.fit("dry.wav", "wet.wav", steps=400, on_step=lambda step, terms: print(step, terms["loss"]))

    Nothing is printed; remarks on the recordings are logged by `logging`. Several fits may run in several threads.

    Args:
        dry, wet: audio files of any sample rate.
        steps: how many steps the optimiser takes.
        method: "annealed"; or "adam", the published method, which needs about 2000 steps (set `steps`).
        loss: the key of a registered loss; or a group of settings, {"name": "mrstft", "options": {"w_sc": 0.5}}.
        on_step: called after every step with its number, from 1, and the loss and its terms by name; what it raises
            ends the fit.
        stopped: called between steps; once it returns True the best so far is returned.
        settings: others of `main.py`, e.g. model="eq_comp", chunk_duration=8.0 (s), device="cpu", chain={…}.

    Raises:
        UsageError: files that cannot be a pair, settings that are unknown or do not fit together, and a loss or
            gradient that is not finite.
    """
    unknown = sorted(settings.keys() - FitSettings.__dataclass_fields__.keys())
    if unknown:
        raise UsageError(f"unknown setting {unknown[0]!r}; known: {', '.join(FitSettings.__dataclass_fields__)}")
    groups = {"optimiser": {**_tree(settings.pop("optimiser", {})), "method": method}}
    groups["loss"] = {"name": loss} if isinstance(loss, str) else _tree(loss)
    paths = {"dry": str(dry), "wet": str(wet)}
    chosen = settings_from(FitSettings, {**settings, **groups, **paths, "epochs": steps})
    chosen.read_model()
    chosen.check()
    recipe, stop = Recipe(chosen), stopped or (lambda: False)
    pair = recipe.load(PairFiles(user_path(dry), user_path(wet), user_path(wet).stem))
    recipe = ordered(recipe, pair, stop)
    track = recipe.track(pair)

    def report(_: Descent, track: TrackState, terms: Terms) -> None:
        if on_step:
            on_step(track.step_count, terms)

    run(recipe.fit([track]), report, lambda _: None, stop)
    if track.error:
        raise UsageError(f"{pair.name}: {track.error}")
    if track.has_ended and recipe.prunes(track):
        recipe.prune(track, stop)
    values = track.best_values(recipe.chain)
    return Fit(recipe.chain, values, chosen.lufs, recipe=recipe, pair=pair, track=track)


def _tree(group: object) -> dict[str, Any]:
    """A group of settings, as a dict or as its dataclass."""
    if is_dataclass(group) and not isinstance(group, type):
        return asdict(group)
    if not isinstance(group, Mapping):
        raise UsageError(f"{str(group)[:80]!r} is no group of settings; give a dict of them")
    return dict(group)


def load_preset(
    path: str | Path, row: int = 0, *, changes: Mapping[str, Any] | None = None, amount: float = 1.0
) -> Processor:
    """A preset document, or a row of a preset set, ours or published, with its own chain.

        y = reknob.load_preset("presets/own", row=0).render(x, sr=44100)
        y = reknob.load_preset("run_0/preset.json", changes={"comp.makeup": 3}, amount=0.7).render(x, sr=44100)

    Args:
        path: of the document, a .json file; or of the set's folder, which holds raw_params.npy.
        row: of the set, from 0.
        changes: values by full name to set, in the declared units; or text with a unit, as "2.5kHz".
        amount: how much of the preset, 0 for off, 1 for all of it, up to 2; applied before the changes.

    Raises:
        UsageError: a path that is no preset, a row that the set does not have, and changes that do not fit its chain.
    """
    if not 0 <= amount <= MOST:
        raise UsageError(f"amount={amount}: give 0 to {MOST:g}")
    texts = [f"{name}={value}" for name, value in (changes or {}).items()]
    chosen = load_chain(preset=str(path), row=row, changes=texts, amount=amount)
    return Processor(*chosen, input_loudness("preset", path))


def load_run(folder: str | Path) -> Processor:
    """The chain that a fit left in a run folder, ours or published, with its best values.

    Raises:
        UsageError: a folder that is no run folder, or one of a run that ended before its first step.
    """
    return Processor(*load_chain(run=str(folder)))


@dataclass(frozen=True)
class Estimate:
    """Values that a network estimates from processed audio.

    Args:
        values: by control ("peq.peak1.gain"); None for a control that cannot be estimated.
        intervals: the calibrated 68 % interval of each value; of an estimator without a calibration the central 68 %
            over the windows of the recording, None if it has one window.
        units: of the values and intervals.
        remarks: limits of the whole estimate, one line each.
    """

    values: dict[str, float | None]
    intervals: dict[str, tuple[float, float] | None]
    units: dict[str, str]
    remarks: list[str]


def estimate(path: str | Path, chain: str = "peq", *, checkpoint: str | Path | None = None) -> Estimate:
    """Estimates the values of a chain from a processed recording alone.

        estimate = reknob.estimate("song.mp3", chain="peq_comphalf")
        estimate.values["comp.threshold"], estimate.units["comp.threshold"]      # -20.3, "dB"

    Args:
        path: an audio file of any sample rate.
        chain: that of an estimator of the package: peq, comphalf, dist, peq_comphalf or peq_comphalf_dist.
        checkpoint: the estimator.pt of a training instead.

    Raises:
        UsageError: an unknown chain, a file that is no estimator or no audio, or a silent recording.
    """
    known = sorted(p.stem for p in ESTIMATORS.glob("*.pt"))
    if checkpoint is None and chain not in known:
        raise UsageError(f"unknown chain {chain!r}; known: {', '.join(known)}, or give a checkpoint")
    estimator, _ = load_estimator(checkpoint or ESTIMATORS / f"{chain}.pt")
    estimated = estimate_recording(estimator, *read_audio(user_path(path)))
    record = as_record(estimator, estimated)
    intervals = {name: None if one["low"] is None else (one["low"], one["high"]) for name, one in record.items()}
    values, units = ({name: one[key] for name, one in record.items()} for key in ("value", "unit"))
    return Estimate(values, intervals, units, estimated.remarks)


__all__ = ["Estimate", "Fit", "Processor", "build", "estimate", "fit", "load_preset", "load_run"]
