"""Builds what the settings of a fit name: chain, loss, memory budget, pairs, tracks and fits."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from reknob.afx import kernels
from reknob.data.chunks import Chunks, cut_chunks
from reknob.data.pair_files import PairFiles
from reknob.data.pairs import Pair, load_pair
from reknob.fitting.batch import Budget
from reknob.fitting.fit import Fit
from reknob.fitting.optimiser import METHODS
from reknob.fitting.pruning import prune
from reknob.fitting.settings import FitSettings
from reknob.fitting.start import start_from_signals
from reknob.fitting.track import TrackState
from reknob.fitting.trial import Losses, Raws
from reknob.formats.effects import EFFECTS
from reknob.formats.preset_document import is_document, raws_of, read_document
from reknob.runtime.device import pick_device

log = logging.getLogger(__name__)

# Annealed steps from the best parameters must not leave them, so that they are smaller.
REFINING = 4.0


class Recipe:
    """Builds the parts of a fit from its settings; nothing else in this folder reads them.

    Args:
        settings: of main.py, with the whole chain under `chain`.

    Raises UsageError where they do not make a chain, a loss or a device.
    """

    def __init__(self, settings: FitSettings) -> None:
        self.settings, self.device = settings, pick_device(settings.device)
        self.chain = settings.build_chain().to(self.device)
        self.loss = settings.build_loss()

    @property
    def epochs(self) -> int:
        """The number of steps."""
        return self.settings.epochs

    @property
    def resumes(self) -> bool:
        """Whether a pair's newest run is continued."""
        return self.settings.resume

    @property
    def is_annealed(self) -> bool:
        """Whether the learning rate depends on the number of epochs."""
        return METHODS[self.settings.optimiser.method].annealed

    @property
    def tree(self) -> dict:
        """The settings as they are written to config.yaml."""
        return asdict(self.settings)

    def with_chain(self, chain: dict) -> "Recipe":
        """The same settings with the configuration of another chain."""
        return Recipe(replace(self.settings, chain=chain))

    def budget(self) -> Budget:
        """The memory budget of steps, from what is free now."""
        gigabytes = self.settings.memory_gb
        limit = None if gigabytes is None else int(1e9 * gigabytes)
        return Budget(self.device, self.settings.batch_size, limit, shared=self.loss.joins_tracks)

    def load(self, files: PairFiles) -> Pair:
        """A pair, loaded, checked and aligned; UsageError for files that cannot be one."""
        settings = self.settings
        return load_pair(
            files,
            settings.sr,
            settings.lufs,
            align=settings.align,
            check=settings.check_pair,
            fix_drift=settings.fix_drift,
            fix_channel_polarity=settings.fix_channel_polarity,
            stereo=settings.stereo_dry,
        )

    def track(self, pair: Pair, *, resumed: bool = False, stopped: Callable[[], bool] = lambda: False) -> TrackState:
        """The initial state of the fit of a pair; UsageError for a pair too short for a chunk.

        `resumed` is for a fit whose state is loaded afterwards, and which needs no other start. Interrupted is raised
        where `stopped()`, asked while a start is read from the recordings.
        """
        settings = self.settings
        chunks = cut_chunks(pair, settings.chunk_duration, settings.chunk_overlap, self.loss.least_samples)
        raws = None if resumed or settings.start == "defaults" else self._start(pair, chunks, stopped)
        return TrackState(
            self.chain,
            chunks,
            epochs=settings.epochs,
            step_chunks=settings.step_chunks,
            seed=settings.seed,
            raws=raws,
        )

    def _start(self, pair: Pair, chunks: Chunks, stopped: Callable[[], bool]) -> Raws:
        """The start of a preset document, or the best of those that the signals of a pair suggest."""
        chain = self.settings.build_chain()  # on the CPU, as the recordings are
        if is_document(self.settings.start):
            return raws_of(chain, read_document(self.settings.start), self.settings.seed)
        first = "" if kernels.compiled() else "; first the sample loops are compiled, about a minute, once"
        log.info("%s: estimating a start from the recordings (as long as about 120 steps)%s", pair.name, first)
        return start_from_signals(
            chain,
            pair,
            chunks,
            partial(self.fit, method="annealed"),
            lambda some: Losses(self.chain, some, self.loss, self.device),
            echoes=self.settings.restarts,
            presets=self.settings.start_rows(chain),
            seed=self.settings.seed,
            stopped=stopped,
        )

    def prunes(self, track: TrackState) -> bool:
        """Whether effects are removed of a fit that has ended."""
        return self.settings.prune and bool(track.best.raws)

    def prune(self, track: TrackState, stopped: Callable[[], bool]) -> None:
        """Removes the effects that a fit that has ended does not need; none where it was stopped."""
        log.info("removing effects that are not needed")
        tolerance = self.settings.prune_tolerance
        pruned = prune(
            self.chain, track, self.loss, self.refine, device=self.device, tolerance=tolerance, stopped=stopped
        )
        if pruned is None:
            log.info("stopped: no effect was removed; resume=true starts the removal again")
        else:
            track.chosen, track.effects = pruned

    def lacks_pruning(self, run: Path) -> bool:
        """Whether effects are still to be removed of a run that has ended."""
        return self.settings.prune and not (run / EFFECTS).exists()

    def refine(self, tracks: Sequence[TrackState]) -> Fit:
        """A fit of some tracks that begin near the best parameters."""
        return self.fit(tracks, method="annealed", slower=REFINING)

    def fit(self, tracks: Sequence[TrackState], *, method: str | None = None, slower: float = 1.0) -> Fit:
        """A fit of some tracks together, by the method of the settings or another one; `slower` divides its rate."""
        settings = self.settings
        return Fit(
            self.chain,
            tracks,
            self.loss,
            lr=settings.optimiser.lr / slower,
            batch_size=settings.batch_size,
            method=method or settings.optimiser.method,
            device=self.device,
            near=settings.start != "defaults" or slower > 1,
            graphed=settings.graph and self.device.type == "cuda",
        )
