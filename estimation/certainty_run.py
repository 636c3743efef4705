"""The certainty of an estimator from its settings: excerpts of each split, their statistics and trials, the fit."""

from dataclasses import dataclass
from pathlib import Path

from reknob.data.excerpts import Excerpts
from reknob.estimation.certainty_training import calibrate, choose_edge, untouched
from reknob.estimation.estimator import Estimator
from reknob.estimation.loaders import FileSettings, Sources
from reknob.estimation.statistics_cache import Processed, cache_statistics, join_parts
from reknob.estimation.trials import Trials, Tried
from reknob.runtime.seeds import stream_seed


@dataclass(frozen=True, kw_only=True)
class CertaintySettings(FileSettings):
    """Settings of a calibration; names and defaults are those of the options of calibrate_estimator.py.

    Args:
        checkpoint: files of the estimator, whose weights are averaged.
        items: number of excerpts that the likelihood is fitted to.
        valid_seconds: length of the `valid_items` excerpts of other recordings that it is calibrated on.
    """

    checkpoint: list[Path]
    items: int = 2000
    valid_seconds: float = 10.0
    untouched: float = 0.2
    limited: float = 0.4
    out: Path = Path("calibrated.pt")


def add_certainty(settings: CertaintySettings, estimator: Estimator, sources: dict[str, Sources]) -> Trials:
    """Gives an estimator its calibration; the trials of it.

    `sources` are those of `find_sources`, as long as the longest excerpts. What <log_dir>/statistics lacks is computed
    and cached there.
    """
    folder = Path(settings.log_dir) / "statistics"
    train = _processed(settings, estimator, sources["train"], "train")
    held_out = _processed(settings, estimator, sources["valid"], "valid")
    known = cache_statistics(train, folder, settings.workers, "train: statistics")
    others = cache_statistics(held_out, folder, settings.workers, "valid: statistics")
    estimator.calibration = calibrate(estimator, known, others)
    trials = Trials(*join_parts(Tried(held_out), folder, settings.workers, "valid: trials"))
    estimator.calibration = choose_edge(estimator.calibration, trials, untouched(estimator, trials.q))
    return trials


def _processed(settings: CertaintySettings, estimator: Estimator, recordings: Sources, split: str) -> Processed:
    """The excerpts of a split."""
    train = split == "train"
    items, seconds = (settings.items, settings.seconds) if train else (settings.valid_items, settings.valid_seconds)
    n_controls, seed = len(estimator.synthesis.controls()), stream_seed(settings.seed, "certainty", split)
    excerpts = Excerpts(recordings, n_controls, items, seed, sr=estimator.settings["sr"], seconds=seconds)
    return Processed(excerpts, estimator, settings.coded, settings.untouched, settings.limited)
