"""Builds what the settings of a fit name: chain, loss, memory budget, pairs, tracks and fits."""

from collections.abc import Sequence
from dataclasses import asdict

from torch import Tensor

from reknob.data.chunks import Chunks, cut_chunks
from reknob.data.pair_files import PairFiles
from reknob.data.pairs import Pair, load_pair
from reknob.fitting.batch import Budget
from reknob.fitting.fit import Fit
from reknob.fitting.initialise import raws_from, starts
from reknob.fitting.optimiser import METHODS
from reknob.fitting.restarts import best_start
from reknob.fitting.settings import FitSettings
from reknob.fitting.track import TrackState
from reknob.formats.preset_document import is_document, raws_of, read_document
from reknob.runtime.device import pick_device


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
        )

    def track(self, pair: Pair, *, resumed: bool = False) -> TrackState:
        """The initial state of the fit of a pair; UsageError for a pair too short for a chunk.

        `resumed` is for a fit whose state is loaded afterwards, and which needs no other start.
        """
        settings = self.settings
        chunks = cut_chunks(pair, settings.chunk_duration, settings.chunk_overlap, self.loss.least_samples)
        raws = None if resumed or settings.start == "defaults" else self._start(pair, chunks)
        return TrackState(self.chain, chunks, epochs=settings.epochs, seed=settings.seed, raws=raws)

    def _start(self, pair: Pair, chunks: Chunks) -> dict[str, Tensor]:
        """The start of a preset document, or the best of those that the signals of a pair suggest."""
        chain = self.settings.build_chain()  # on the CPU, as the recordings are
        if is_document(self.settings.start):
            return raws_of(chain, read_document(self.settings.start), self.settings.seed)
        values = starts(chain, pair.dry, pair.wet, self.settings.restarts)
        raws = [raws_from(chain, each, self.settings.seed) for each in values]
        return best_start(self.chain, chunks, raws, lambda tracks: self.fit(tracks, method="annealed"))

    def fit(self, tracks: Sequence[TrackState], *, method: str | None = None) -> Fit:
        """A fit of some tracks together, by the method of the settings or another one."""
        settings = self.settings
        return Fit(
            self.chain,
            tracks,
            self.loss,
            lr=settings.optimiser.lr,
            batch_size=settings.batch_size,
            method=method or settings.optimiser.method,
            device=self.device,
            near=settings.start != "defaults",
            graphed=settings.graph and self.device.type == "cuda",
        )
