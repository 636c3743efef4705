"""Trains an estimator on statistics of music, computed once: minutes on a laptop, where training on audio takes hours.

    python scripts/train_on_statistics.py --chain=peq --out start.pt
    python scripts/train_on_statistics.py --chain=peq --items=20000 --seconds=6 --init=start.pt --out my_peq.pt
    python scripts/train_on_statistics.py --chain=peq_comphalf --data=folder --data_dir=music --out my_chain.pt

An equaliser adds its gains to the statistics of untouched music: without --items, peq and geq are trained on these, by
an audio-domain loss, with new random parameters in every step. With --items, and for other chains, that many excerpts
are processed once, and the loss compares parameters, those of an equaliser by its magnitude response.
train_analysis_net.py --encoder=percentiles --init=FILE continues with an audio-domain loss.

Statistics are cached in <log_dir>/statistics: the same command resumes, and more --items add to those there. The file
has the weights with the lowest validation loss so far; --resume continues where Ctrl-C stopped the training, or at most
30 s before it was killed. Results on test recordings are written beside it: my_peq_results.md and my_peq_results.png.
"""

from reknob.runtime.program import INTERRUPTED, print_error, program

import argparse
import sys
import time

from reknob.estimation.arguments import add_music
from reknob.estimation.loaders import find_sources
from reknob.estimation.statistics_run import (
    ITEMS,
    StatisticsSettings,
    build_objective,
    load_statistics,
    train_on,
)
from reknob.estimation.trainer import check_training
from reknob.report.results import results_path, write_test_results
from reknob.report.tables import scores_rows, text_table
from reknob.runtime.arguments import Parser, file_path, non_negative_int, positive_float, positive_int, real
from reknob.runtime.files import check_output
from reknob.runtime.output import result


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    settings = StatisticsSettings(**vars(parser().parse_args(argv)))
    overwrite, resume = settings.overwrite, settings.resume
    check_training(settings.out, [settings.init], settings, overwrite=overwrite, resume=resume)
    if settings.test_items:
        check_output(results_path(settings.out), overwrite=overwrite or resume)
    objective = build_objective(settings)
    started = time.perf_counter()
    try:
        # Not within `Interrupt`: a signal may end it after any part, as those computed so far are cached.
        sources, skipped = find_sources(settings, settings.sizes)
        for reason in skipped:
            print(f"skipped {reason}")
        statistics = load_statistics(settings, objective.estimator, sources)
    except KeyboardInterrupt:
        print_error("stopped; the same command continues with the statistics computed so far")
        return INTERRUPTED
    cached = time.perf_counter()
    trainer = train_on(objective, statistics, settings)
    count, ended = sum(len(part.q) for part in statistics["train"]), time.perf_counter()
    print(f"{count} excerpts in {(cached - started) / 60:.1f} min, training in {(ended - cached) / 60:.1f} min")
    stopped, scores = trainer.stopped, {}
    line = f"{settings.out}: validation loss {trainer.best:.4f}"
    if stopped:
        line += ", stopped before its end; --resume continues"
    else:
        if settings.test_items:
            scores = write_test_results(settings, objective.estimator, sources["test"])
            print(f"{text_table(*scores_rows(scores))}\n{results_path(settings.out)}: its results by parameter")
        # Last, so that what ends the program before is resumed.
        trainer.path.unlink()
    result(line, estimator=settings.out, excerpts=count, valid_loss=trainer.best, stopped=stopped, scores=scores)
    return INTERRUPTED if stopped else 0


def parser() -> argparse.ArgumentParser:
    """The program's options: one for each field of `StatisticsSettings`."""
    default = StatisticsSettings()
    p = Parser(__doc__)
    text = "effects that process the music and are estimated (default %(default)s)"
    p.add_argument("--chain", default=default.chain, help=text)
    add_music(p)
    text = f"processed excerpts, rounded up to a multiple of 50 (default {ITEMS}, for peq and geq none)"
    p.add_argument("--items", type=positive_int, help=text)
    for name, kind, text in (
        ("windows", positive_int, "windows of an untouched recording (default %(default)s)"),
        ("valid_items", positive_int, "processed excerpts of the validation (default %(default)s)"),
        ("test_items", non_negative_int, "excerpts of the results, 0 for none (default %(default)s)"),
        ("untouched", real(0, 0.95), "share of processed excerpts that are left as they are (default %(default)g)"),
        ("limited", real(0, 1), "half of it each: a band limit before, one after, a low level (default %(default)g)"),
        ("steps", positive_int, "default %(default)s"),
        ("batch_size", positive_int, "default %(default)s"),
        ("lr", positive_float, "highest learning rate (default %(default)g)"),
        ("seed", non_negative_int, "of weights, excerpts and parameters (default %(default)s)"),
    ):
        p.add_argument(f"--{name}", type=kind, default=getattr(default, name), help=text)
    text = "start from this estimator's weights, as of peq for peq_comp"
    p.add_argument("--init", type=file_path, metavar="FILE", help=text)
    p.add_argument("--out", type=file_path, default=default.out, help="file of the estimator (default %(default)s)")
    p.add_argument("--overwrite", action="store_true", help="replace an existing file")
    p.add_argument("--resume", action="store_true", help="continue a training that was stopped or killed")
    return p


if __name__ == "__main__":
    sys.exit(main())
