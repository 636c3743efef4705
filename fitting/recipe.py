"""What the settings of a fit stand for: the chain, the loss, how a pair is loaded and fitted."""

from collections.abc import Sequence
from dataclasses import asdict

from reknob.data.chunks import cut_chunks
from reknob.data.pair_files import PairFiles
from reknob.data.pairs import Pair, load_pair
from reknob.fitting.batch import Budget
from reknob.fitting.fit import Fit
from reknob.fitting.optimiser import METHODS
from reknob.fitting.settings import FitSettings
from reknob.fitting.track import TrackState
from reknob.runtime.device import pick_device


class Recipe:
    """How pairs are fitted; the only place that reads settings.

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
        return self.settings.epochs

    @property
    def resumes(self) -> bool:
        return self.settings.resume

    @property
    def is_annealed(self) -> bool:
        """Whether the learning rate follows the number of epochs."""
        return METHODS[self.settings.optimiser.method].annealed

    @property
    def tree(self) -> dict:
        """The settings as config.yaml holds them."""
        return asdict(self.settings)

    def budget(self) -> Budget:
        """The memory that steps may take, from what is free now."""
        gigabytes = self.settings.memory_gb
        limit = None if gigabytes is None else int(1e9 * gigabytes)
        return Budget(self.device, self.settings.batch_size, limit, shared=self.loss.joins_tracks)

    def load(self, files: PairFiles) -> Pair:
        """A pair as it is compared; UsageError for what cannot be one."""
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

    def track(self, pair: Pair) -> TrackState:
        """A pair at the beginning of its fit; UsageError where it gives no chunk."""
        settings = self.settings
        chunks = cut_chunks(pair, settings.chunk_duration, settings.chunk_overlap, self.loss.least_samples)
        return TrackState(self.chain, chunks, epochs=settings.epochs, seed=settings.seed)

    def fit(self, tracks: Sequence[TrackState]) -> Fit:
        """A fit of some tracks together."""
        settings = self.settings
        return Fit(
            self.chain,
            tracks,
            self.loss,
            lr=settings.optimiser.lr,
            batch_size=settings.batch_size,
            method=settings.optimiser.method,
            device=self.device,
            graphed=settings.graph and self.device.type == "cuda",
        )
