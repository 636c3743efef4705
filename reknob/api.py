"""The public API: fits, presets and estimates as objects that hold plain numbers and render audio."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reknob import formats
from reknob.afx.effect import Effect, Values, flatten, nest
from reknob.afx.registry import build
from reknob.afx.stream import render
from reknob.data.audio import normalise_loudness, read_audio, resample
from reknob.data.doctor import Finding
from reknob.data.pair_files import PairFiles
from reknob.data.pairs import Pair
from reknob.estimation.estimate import as_record, estimate_recording
from reknob.estimation.estimator import load_estimator
from reknob.fitting.fit import Fit as Descent
from reknob.fitting.fit import Terms, run
from reknob.fitting.recipe import Recipe
from reknob.fitting.run_folder import RunFolder
from reknob.fitting.settings import FitSettings
from reknob.fitting.track import TrackState
from reknob.formats import runs
from reknob.formats.applied import load_chain
from reknob.runtime.errors import UsageError
from reknob.runtime.files import absolute, user_path

#: Beside the folders of the project, in a clone and in a wheel alike.
ESTIMATORS = Path(formats.__file__).resolve().parent.parent / "checkpoints"
LUFS = -18.0  # of the recordings that presets are fitted to

Audio = Tensor | np.ndarray
#: Plain numbers, lists of them for matrices, by the chain's names: {"comp": {"attack": 13.3, …}, …}.
Numbers = dict[str, "float | list | Numbers"]


def to_numbers(values: Values) -> Numbers:
    """Values as plain numbers and lists."""
    return nest({name: value.detach().cpu().tolist() for name, value in flatten(values).items()})


@dataclass(frozen=True)
class Processor:
    """A chain of effects with one set of values.

    Args:
        chain: the effects, at their sample rate.
        tensors: values as `chain` takes them.
    """

    chain: Effect
    tensors: Values = field(repr=False)

    @property
    def values(self) -> Numbers:
        """The values in the units that the effects declare."""
        return to_numbers(self.tensors)

    def render(self, x: Audio, sr: int, *, lufs: float | None = LUFS) -> Tensor:
        """A recording through the chain.

        Args:
            x: (T,) or (C, T); channels are averaged, as chains take mono.
            sr: sample rate of `x` in Hz; the output has it too.
            lufs: loudness that the input is brought to first; presets are fitted at -18. None leaves its level.

        Returns:
            (2, T) float32 for a chain that ends in stereo.

        Raises:
            UsageError: a silent input whose loudness cannot be normalised.
        """
        mono = torch.as_tensor(x).float().reshape(-1, x.shape[-1]).mean(0, keepdim=True)
        mono = resample(mono, sr, self.chain.sr) if sr != self.chain.sr else mono
        mono = mono if lufs is None else normalise_loudness(mono, self.chain.sr, lufs)
        y = render(self.chain.eval(), self.tensors, mono)
        return y if sr == self.chain.sr else resample(y, self.chain.sr, sr)[..., : x.shape[-1]]


@dataclass(frozen=True)
class Fit(Processor):
    """A fitted chain.

    `loss` is the lowest loss, `losses` that of every step, `findings` what the check of the pair found.
    """

    recipe: Recipe = field(repr=False, kw_only=True)
    pair: Pair = field(repr=False, kw_only=True)
    track: TrackState = field(repr=False, kw_only=True)

    @property
    def loss(self) -> float:
        return self.track.best.loss

    @property
    def losses(self) -> list[float]:
        return list(self.track.losses)

    @property
    def findings(self) -> list[Finding]:
        return list(self.pair.check.findings)

    def save(self, folder: str | Path) -> Path:
        """Writes a run folder <folder>/run_<N>, as `main.py` does: settings, record, checkpoint, values, audio."""
        parent = user_path(folder)
        path = runs.new_run(parent.parent, parent.name)
        lock = runs.lock(path)
        paths = {"input_path": absolute(self.pair.dry_path), "target_path": absolute(self.pair.wet_path)}
        runs.begin(path, self.recipe.tree, **paths, pair_check=self.pair.check.record())
        ended = None if self.track.has_ended else "interrupted"
        RunFolder(path, self.pair, self.track, self.recipe, lock).close(ended)
        return path


def fit(
    dry: str | Path,
    wet: str | Path,
    *,
    steps: int = 400,
    method: str = "annealed",
    on_step: Callable[[int, Terms], None] | None = None,
    stopped: Callable[[], bool] | None = None,
    **settings: object,
) -> Fit:
    """Fits a chain to a dry/wet pair.

    Args:
        dry, wet: audio files.
        steps: how many steps the optimiser takes.
        method: "annealed" or "adam", as published.
        on_step: called after every step with its number and the loss and its terms.
        stopped: asked between steps; the best so far is returned once it says yes.
        settings: fields of `fitting.settings.FitSettings`, e.g. model="eq_comp", chunk_duration=8.0, device="cpu".

    Raises:
        UsageError: files that cannot be a pair, or settings that do not fit together.
    """
    known = FitSettings.__dataclass_fields__
    unknown = sorted(settings.keys() - known)
    if unknown:
        raise UsageError(f"unknown setting {unknown[0]!r}; known: {', '.join(known)}")
    chosen = FitSettings(dry=str(dry), wet=str(wet), epochs=steps, **settings)
    chosen.optimiser = replace(chosen.optimiser, method=method)
    chosen.read_model()
    chosen.check()
    recipe = Recipe(chosen)
    pair = recipe.load(PairFiles(user_path(dry), user_path(wet), user_path(wet).stem))
    track = recipe.track(pair)

    def told(_: Descent, track: TrackState, terms: Terms) -> None:
        if on_step:
            on_step(track.step_count, terms)

    run(recipe.fit([track]), told, lambda _: None, stopped or (lambda: False))
    if track.error:
        raise UsageError(f"{pair.name}: {track.error}")
    return Fit(recipe.chain, track.best_values(recipe.chain), recipe=recipe, pair=pair, track=track)


def load_preset(folder: str | Path, row: int = 0) -> Processor:
    """A row of a preset set, ours or published; UsageError where the folder is none, or has no such row."""
    options = {"run": None, "values": None, "fx_config": None, "realtime": False, "no_delay": False, "no_reverb": False}
    return Processor(*load_chain(preset=folder, row=row, **options))


def load_run(folder: str | Path) -> Processor:
    """The chain that a fit left in a run folder, ours or published; UsageError where it is none."""
    options = {"preset": None, "values": None, "fx_config": None, "realtime": False, "no_delay": False}
    return Processor(*load_chain(run=folder, row=0, no_reverb=False, **options))


@dataclass(frozen=True)
class Estimate:
    """What a network estimates from processed audio.

    `values` by control ("peq.peak1.gain") in the declared units, None where a control cannot be estimated; `intervals`
    the middle 68 % over the windows, None where there are none; `remarks` what to know about the whole.
    """

    values: dict[str, float | None]
    intervals: dict[str, tuple[float, float] | None]
    units: dict[str, str]
    remarks: list[str]


def estimate(path: str | Path, chain: str = "peq", *, checkpoint: str | Path | None = None) -> Estimate:
    """Estimates the settings of a chain from a processed recording.

    Args:
        path: an audio file.
        chain: that of an estimator that comes with the project: peq, comphalf, dist, peq_comphalf, peq_comphalf_dist.
        checkpoint: another estimator.pt instead.

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
