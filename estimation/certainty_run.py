"""The certainty of an estimator from its settings: excerpts of each split, their statistics and trials, the fit."""

from dataclasses import asdict, dataclass
from pathlib import Path

from reknob.data.excerpts import Excerpts
from reknob.estimation.certainty_training import calibrate, fit_certainty
from reknob.estimation.estimator import Estimator
from reknob.estimation.loaders import MusicSettings, Sources, held_out_sizes
from reknob.estimation.statistics_cache import Processed, Trials, cache_statistics, join_parts
from reknob.estimation.trials import Described, Tried
from reknob.runtime.seeds import stream_seed

#: Settings that an estimator's record leaves out: paths of the machine that it was calibrated on.
PRIVATE = {"data_dir", "log_dir", "checkpoint", "out", "overwrite"}


@dataclass(frozen=True, kw_only=True)
class CertaintySettings(MusicSettings):
    """Settings of a calibration; names and defaults are those of the options of calibrate_estimator.py.

    Args:
        checkpoint: file of the estimator.
        items: number of processed excerpts that the distributions are trained on.
        valid_items: number of excerpts of other recordings that they are calibrated on.
        test_items: number of excerpts of yet other recordings that the estimator is scored on; 0 for no results.
        valid_seconds: length of those that it is calibrated on.
        untouched: share of the excerpts that are not processed.
        limited: share with a band limit, or a low level at 16 bits.
        seed: of weights, excerpts and parameters.
        out, overwrite: the file to write, and whether it may exist.
    """

    checkpoint: Path
    items: int = 2000
    valid_items: int = 400
    test_items: int = 100
    valid_seconds: float = 10.0
    untouched: float = 0.2
    limited: float = 0.4
    seed: int = 0
    out: Path = Path("calibrated.pt")
    overwrite: bool = False

    @property
    def sizes(self) -> dict[str, int]:
        """Number of generated pieces by split."""
        return held_out_sizes(self.pieces, test=self.test_items > 0)

    def record(self) -> dict[str, str | float | None]:
        """What an estimator's record holds of the settings."""
        return {name: value for name, value in asdict(self).items() if name not in PRIVATE}


def add_certainty(settings: CertaintySettings, estimator: Estimator, sources: dict[str, Sources]) -> Trials:
    """Gives an estimator its certainty and calibration; the trials that it is calibrated on.

    `sources` are those of `find_sources`. What <log_dir>/statistics lacks is computed and cached there.
    """
    folder = Path(settings.log_dir) / "statistics"
    train = _processed(settings, estimator, sources["train"], "train")
    held_out = _processed(settings, estimator, sources["valid"], "valid")
    statistics = cache_statistics(train, folder, settings.workers, "train: statistics")
    described = Described(held_out)
    (features,) = join_parts(described, folder, settings.workers, "valid: features")
    trials = Trials(*join_parts(Tried(described, features), folder, settings.workers, "valid: trials"))
    estimator.certainty = fit_certainty(estimator, statistics, settings.seed)
    estimator.calibration = calibrate(estimator, estimator.certainty, statistics, features, trials)
    return trials


def _processed(settings: CertaintySettings, estimator: Estimator, recordings: Sources, split: str) -> Processed:
    """The excerpts of a split."""
    train = split == "train"
    items, seconds = (settings.items, settings.seconds) if train else (settings.valid_items, settings.valid_seconds)
    n_controls, seed = len(estimator.synthesis.controls()), stream_seed(settings.seed, "certainty", split)
    excerpts = Excerpts(recordings, n_controls, items, seed, sr=estimator.settings["sr"], seconds=seconds)
    return Processed(excerpts, estimator, settings.coded, settings.untouched, settings.limited)
