"""Adds to a trained estimator how certain it is: the distribution of its parameters, calibrated on other recordings.

    python scripts/calibrate_estimator.py --checkpoint my_peq.pt --data=folder --data_dir=music --out calibrated.pt

The estimator's weights stay as they are. How its estimates depend on the true parameters is fitted to excerpts that
are processed with random parameters or left untouched, some of them with a band limit, at a low level or through a
lossy codec. Calibrated on recordings of the validation split are the intervals, the certainty from which on an estimate
is kept, and what counts as unlike the training music. For --encoder=percentiles.

Of the excerpts of each data set at most a tenth may become worse by its estimate, and of those that are untouched at
most a twentieth may change, with a confidence of 90 %: a data set of which few excerpts are tried allows little. Give
160 --valid_items for each data set, better 400.

Excerpts are cached in <log_dir>/statistics: the same command resumes. Results on test recordings, with a reliability
diagram of the intervals, are written beside the estimator: calibrated_results.md and calibrated_results.png.
"""

from reknob.runtime.program import INTERRUPTED, print_error, program

import argparse
import sys
from dataclasses import replace

from reknob.estimation.arguments import add_music
from reknob.estimation.certainty_run import CertaintySettings, add_certainty
from reknob.estimation.certainty_training import NEVER
from reknob.estimation.estimator import load_mean
from reknob.estimation.loaders import find_sources
from reknob.estimation.statistics_training import percentile_encoder
from reknob.report.results import results_path, write_test_results
from reknob.report.tables import scores_rows, text_table
from reknob.runtime.arguments import Parser, file_path, input_file, non_negative_int, positive_int, real
from reknob.runtime.errors import UsageError
from reknob.runtime.files import check_output
from reknob.runtime.output import result


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    settings = CertaintySettings(**vars(parser().parse_args(argv)))
    check_output(settings.out, settings.checkpoint, overwrite=settings.overwrite)
    if settings.test_items:
        check_output(results_path(settings.out), overwrite=settings.overwrite)
    estimator, record = load_mean(settings.checkpoint)
    percentile_encoder(estimator)  # refuses other encoders before the music is read
    if not estimator.same_controls:
        raise UsageError(f"{settings.checkpoint[0]}: its true and estimated parameters differ: it cannot be calibrated")
    try:
        longest = max(settings.seconds, settings.valid_seconds)
        sources, skipped = find_sources(replace(settings, seconds=longest), settings.sizes)
        for reason in skipped:
            print(f"skipped {reason}")
        trials = add_certainty(settings, estimator, sources)
    except KeyboardInterrupt:
        print_error("stopped; the same command continues with the excerpts computed so far")
        return INTERRUPTED
    estimator.save(settings.out, **record | {"certainty": settings.record()})
    assert estimator.calibration
    weights, edge = estimator.calibration.weights.tolist(), float(estimator.calibration.edge)
    scores = {}
    if settings.test_items:
        # As long as those that the intervals were calibrated on.
        scores = write_test_results(replace(settings, seconds=settings.valid_seconds), estimator, sources["test"])
        print(f"{text_table(*scores_rows(scores))}\n{results_path(settings.out)}: its results by parameter")
    line = f"{settings.out}: calibrated on {len(trials.q)} excerpts"
    if edge >= NEVER:
        line += "; they show no certainty at which estimates are safe, so that it returns no effect: more --valid_items"
    result(line, estimator=settings.out, excerpts=len(trials.q), weights=weights, edge=edge, scores=scores)
    return 0


def parser() -> argparse.ArgumentParser:
    """The program's options: one for each field of `CertaintySettings`."""
    default = CertaintySettings(checkpoint=[file_path("estimator.pt")])
    p = Parser(__doc__)
    text = "the trained estimator; of several, as before and after a further training, the mean of their weights"
    p.add_argument("--checkpoint", type=input_file, metavar="FILE", nargs="+", required=True, help=text)
    add_music(p)
    for name, kind, text in (
        ("items", positive_int, "excerpts that the likelihood is fitted to, in fifties (default %(default)s)"),
        ("valid_items", positive_int, "excerpts that it is calibrated on, in fifties (default %(default)s)"),
        ("valid_seconds", real(2, 600), "length of these, and of those of the results (default %(default)g)"),
        ("test_items", non_negative_int, "excerpts of the results, 0 for none (default %(default)s)"),
        ("untouched", real(0.05, 0.95), "share of excerpts that are not processed (default %(default)g)"),
        ("limited", real(0, 1), "half of it each: a band limit before, one after, a low level (default %(default)g)"),
        ("seed", non_negative_int, "of weights, excerpts and parameters (default %(default)s)"),
    ):
        p.add_argument(f"--{name}", type=kind, default=getattr(default, name), help=text)
    p.add_argument("--out", type=file_path, default=default.out, help="file of the estimator (default %(default)s)")
    p.add_argument("--overwrite", action="store_true", help="replace an existing file")
    return p


if __name__ == "__main__":
    sys.exit(main())
