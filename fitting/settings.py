"""The settings of a fit, typed, and the checks that need no recording."""

import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from reknob.afx.effect import Effect
from reknob.afx.registry import build, check_fittable, with_changes
from reknob.data.pair_files import DATASETS
from reknob.fitting.optimiser import METHODS
from reknob.formats.preset_document import is_document, raws_of, read_document
from reknob.formats.presets import load_presets
from reknob.formats.run_audio import KEPT
from reknob.formats.runs import read_chain_file
from reknob.losses import LOSSES, FitLoss, VocalLoss, build_fit_loss, channels_of
from reknob.losses.vocal import TERMS
from reknob.runtime.errors import UsageError
from reknob.runtime.files import user_path
from reknob.runtime.settings import option

log = logging.getLogger(__name__)

CHAINS = Path(__file__).resolve().parent.parent / "cfg" / "model"
# The most chunks that may contain one sample: all chunks of a pair are held in memory.
MOST_OVERLAPPING = 20
STARTS = ("defaults", "signals")
ORDERS = ("given", "search")
VOCAL = "vocal"


def fit_losses() -> list[str]:
    """The registered losses that compare stereo audio."""
    return [name for name, loss in LOSSES.items() if 2 in channels_of(loss)]


@dataclass
class OptimiserSettings:
    """The optimiser of a fit."""

    lr: float = option(0.01, "learning rate of Adam", above=0)
    method: str = option("adam", "adam, as published; annealed: larger steps that become smaller, for about 400 epochs")


@dataclass
class LossSettings:
    """What a fit minimises: `weights` and `mldr_rows` are options of the vocal loss, `options` those of the others."""

    name: str = option(VOCAL, lambda: f"loss: {', '.join(fit_losses())}")
    weights: list[float] = option([1.0, 0.5, 0.5, 0.25], "vocal: of MSS l/r, MSS m/s, MLDR l/r, MLDR m/s")
    mldr_rows: str = option("separate", "vocal: separate, or rolled as in the published release")
    options: dict[str, Any] = option({}, "of the other losses: loss.options.w_log_mag=0.5")


@dataclass
class FitSettings:
    """The settings of `main.py`; `chain` is the whole chain after `read_model`."""

    dataset: str | None = option(None, lambda: f"how to find the pairs: {', '.join(DATASETS)}; default: by the files")
    data_dir: str | None = option(None, "folder of a song, or of pairs; @LIST: a file with such folders, one per line")
    dry: str | None = option(None, "unprocessed recording")
    wet: str | None = option(None, "processed recording")
    align: bool = option(True, "align the dry file to the wet one, by the peak of their cross-correlation")
    check_pair: bool = option(True, "refuse a wet file that does not come from the dry one")
    fix_drift: bool = option(False, "resample wet where the clocks of the two recordings drift apart")
    fix_channel_polarity: bool = option(False, "also correct the polarity of a single inverted channel")
    stereo_dry: bool = option(False, "keep both channels of dry, for chains that take stereo: groups and mixes")
    log_dir: str = option("logs", "folder of the run folders")
    resume: bool = option(False, "continue the newest run of a track; a finished run is left alone")
    model: str | None = option("diffvox", "chain file in cfg/model, or a path; null: `chain` is the whole chain")
    chain: dict[str, Any] = option({}, "changes inside the chain: chain.sends.reverb.ir_duration=6, chain.comp=null")
    sr: int = option(44100, "sample rate in Hz; other files are resampled", above=0, within=(8000, 192_000))
    lufs: float | None = option(
        -18.0, "loudness that dry and wet are brought to; null keeps their levels", within=(-100, 100)
    )
    chunk_duration: float = option(12.0, "length of a chunk in s", above=0, within=(0.05, 3600))
    chunk_overlap: float = option(5.0, "warm-up of a chunk in s, left out of the loss", within=(0, 3600))
    batch_size: int = option(35, "largest number of chunks in a step", above=0, within=(1, 1_000_000))
    step_chunks: int | None = option(
        None, "number of chunks in a step, drawn by level and dynamics; null: all", above=0, within=(1, 1_000_000)
    )
    start: str = option("defaults", f"{', '.join(STARTS)} (estimated from the recordings), or a preset.json")
    restarts: int = option(3, "start=signals: how many echo times are tried; the best continues", within=(1, 64))
    start_presets: str | None = option(None, "start=signals: a preset set, the reverbs of which are tried too")
    order: str = option("given", f"{', '.join(ORDERS)}: the compressor before or after the equaliser, by short fits")
    prune: bool = option(False, "at the end remove the effects without which the loss hardly rises, and fit the others")
    prune_tolerance: float | None = option(
        None, "prune=true: how much the loss may rise; default: 0.5 %, at least the cost of 0.015 dB of level", above=0
    )
    epochs: int = option(2000, "number of steps", above=0, within=(1, 1_000_000_000))
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    device: str = option("auto", "auto, cpu or cuda")
    graph: bool = option(False, "on a GPU: record a step once and replay it as one launch")
    memory_gb: float | None = option(None, "memory for steps in GB; default: most of what is free", above=0)
    report: bool = option(False, "at the end: report.html in the run folder, to hear and to see what was fitted")
    certainty: bool = option(False, "at the end: an interval for each parameter, and whether the sound determines it")
    keep_audio: str = option("all", "recordings in the run folder, as flac: all (dry, wet, fitted), fitted, or none")
    seed: int = option(0, "seed of the random defaults and of the draws of chunks", within=(0, 2**63 - 1))

    def read_model(self, changes: dict | None = None) -> None:
        """Sets `chain` to the whole chain: that of `model`, changed by `changes` and then by the present `chain`.

        UsageError for a model that is unknown or no chain, and for changes that do not fit it.
        """
        chain = {}
        if self.model:
            path = chain_file(self.model)
            chain, sr = read_chain_file(path, default_sr=self.sr)
            if sr != self.sr:
                log.warning("%s is a chain of a fit at %d Hz; this one runs at sr=%d", path, sr, self.sr)
        self.chain = with_changes(with_changes(chain, changes or {}), self.chain)

    def build_chain(self) -> Effect:
        """The chain; UsageError for one that cannot be built or cannot be fitted."""
        chain = build(self.chain, self.sr)
        check_fittable(chain, 2 if self.stereo_dry else 1)
        return chain

    def build_loss(self) -> FitLoss:
        """The loss; UsageError where its name or its options are unknown, or it cannot compare stereo."""
        name, weights, options = self.loss.name, self.loss.weights, self.loss.options
        if name != VOCAL:
            if name not in fit_losses():
                raise UsageError(f"loss.name={name}: unknown loss of audio; known: {', '.join(fit_losses())}")
            return build_fit_loss({**options, "name": name}, self.sr)
        if options:
            raise UsageError(f"loss.options={options}: the vocal loss takes loss.weights and loss.mldr_rows")
        if len(weights) == len(TERMS) and (min(weights) < 0 or not any(weights)):
            raise UsageError(f"loss.weights={weights}: give numbers of at least 0, one of them above 0")
        return VocalLoss(self.sr, weights, self.loss.mldr_rows)

    def start_rows(self, chain: Effect) -> list[dict[str, Tensor]]:
        """The raw parameters of the presets of `start_presets`; UsageError for a set of another chain."""
        return [dict(p.raws) for p in load_presets(self.start_presets, chain)] if self.start_presets else []

    def check(self) -> None:
        """Raises UsageError for settings that no fit can have, before any recording is read."""
        for name, given, known in (
            ("dataset", self.dataset, DATASETS),
            ("optimiser.method", self.optimiser.method, METHODS),
            ("order", self.order, ORDERS),
            ("keep_audio", self.keep_audio, KEPT),
        ):
            if given is not None and given not in known:
                raise UsageError(f"{name}={given}: unknown; known: {', '.join(known)}")
        if self.start not in STARTS and not is_document(self.start):
            raise UsageError(f"start={self.start}: unknown; known: {', '.join(STARTS)}, or a preset's .json file")
        self._check_chunks(self.build_loss())
        chain = self.build_chain()
        if is_document(self.start):
            raws_of(chain, read_document(self.start))
        if self.start_presets and self.start != "signals":
            raise UsageError(f"start_presets={self.start_presets} needs start=signals; given: start={self.start}")
        if self.prune_tolerance is not None and not self.prune:
            raise UsageError(f"prune_tolerance={self.prune_tolerance:g} needs prune=true")
        self.start_rows(chain)

    def _check_chunks(self, loss: FitLoss) -> None:
        """Checks that enough of a chunk is left after its warm-up, and that chunks do not overlap too much."""
        duration, overlap = self.chunk_duration, self.chunk_overlap
        if overlap >= duration:
            raise UsageError(f"chunk_overlap={overlap:g} s must be at least 0 and below chunk_duration={duration:g} s")
        compared, least = round(duration * self.sr) - round(overlap * self.sr), loss.least_samples
        if compared < least:
            most = f"chunk_overlap={math.floor(1000 * (duration - least / self.sr)) / 1000:g} or less"
            longer = f"chunk_duration={math.ceil(1000 * (overlap + least / self.sr)) / 1000:g} or more"
            advice = f"{most}, or {longer}" if duration * self.sr > least else longer
            raise UsageError(
                f"chunk_duration={duration:g} and chunk_overlap={overlap:g} leave {compared} samples to compare, the "
                f"longest window of the loss takes {least}: set {advice}"
            )
        if duration > MOST_OVERLAPPING * (duration - overlap):
            raise UsageError(
                f"chunk_overlap={overlap:g} of chunk_duration={duration:g}: every sample would lie in "
                f"{duration / (duration - overlap):.0f} chunks, all in memory; set chunk_overlap="
                f"{duration * (1 - 1 / MOST_OVERLAPPING):g} or less"
            )


def chain_file(model: str) -> Path:
    """The file of a chain, given by its name in cfg/model or by a path; UsageError for another name."""
    known = sorted(p.stem for p in CHAINS.glob("*.yaml"))
    if model not in known and not Path(model).suffix:
        raise UsageError(f"unknown model {model!r}; known: {', '.join(known)}, or a path to a YAML file")
    return CHAINS / f"{model}.yaml" if model in known else user_path(model)
