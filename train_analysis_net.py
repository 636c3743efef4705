"""Trains a network that estimates the parameters of effects from processed music.

    python train_analysis_net.py --sfx=peq --afx=peq                       a draft on generated music, on any laptop
    python train_analysis_net.py --sfx=peq_compfull --afx=peq_comphalf --encoder=mee --loss=mel
    python train_analysis_net.py --data=musdb18 --data_dir=MUSDB18 --batch_size=16 --epoch_items=480 \\
        --valid_items=70 --test_items=500 --epochs=400                     the published size

--sfx processes the music, --afx is estimated: words as geq, peq, compfull, comphalf, compsimple, taylor, chebyshev and
dist. Joined by _ they run in this order, joined by , as they are written (dist,peq). Results go to
<log_dir>/<prefix>_SFX_…_<suffix>: estimator.pt (the best epoch), results.md with a figure, metrics.json (the scores of
every test item), TensorBoard. --resume continues where Ctrl-C stopped it, or at most 30 s before it was killed.

    python train_analysis_net.py --devices=4 …                             four GPUs of this machine, one training
    srun --nodes=2 --ntasks-per-node=4 python train_analysis_net.py --nodes=2 --devices=4 …
"""

from reknob.runtime.program import INTERRUPTED, program

import argparse
import sys

from reknob.data.excerpts import Excerpts
from reknob.encoders import ENCODERS
from reknob.estimation.arguments import add_music
from reknob.estimation.loaders import build_loaders, data_names
from reknob.estimation.sound_training import train
from reknob.estimation.train import objectives
from reknob.estimation.trainer import PRECISIONS, plain
from reknob.estimation.training_run import (
    ESTIMATOR,
    RESULTS,
    TrainingSettings,
    build_estimator,
    open_folder,
    score_run,
)
from reknob.report.board import quiet_writer_threads
from reknob.report.results import write_heard, write_results
from reknob.report.tables import scores_rows, text_table
from reknob.report.training_board import TrainingBoard
from reknob.runtime.arguments import Parser, file_path, integer, non_negative_int, positive_float, positive_int
from reknob.runtime.device import pick_device
from reknob.runtime.memory import keep_freed_memory
from reknob.runtime.output import result

MOST_PROCESSES = 1024


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    settings = TrainingSettings(**vars(parser().parse_args(argv)))
    keep_freed_memory()
    device = pick_device(settings.device)
    # Before the folder is created, so that settings that do not go together leave none.
    estimator = build_estimator(settings)
    folder = open_folder(settings)
    n_controls, batch_size = len(estimator.synthesis.controls()), settings.batch_size
    # After the folder was opened: generating music may take minutes, in vain where the run exists already.
    loaders, skipped = build_loaders(
        settings, settings.sizes, n_controls, batch_size=batch_size, seed=settings.seed, share=settings.share
    )
    is_first = settings.share.rank == 0
    for reason in skipped if is_first else ():
        print(f"skipped {reason}")
    board = TrainingBoard(folder)
    with quiet_writer_threads():
        stopped = train(estimator, settings, folder, loaders, device, board=board if is_first else None)
    if not is_first:
        return INTERRUPTED if stopped else 0
    if stopped:
        result(f"stopped; the best epoch is in {folder / ESTIMATOR}; --resume continues", estimator=folder / ESTIMATOR)
        return INTERRUPTED
    scored = score_run(estimator, loaders["test"], folder, settings.seed)
    write_results(folder / RESULTS, estimator, scored)
    excerpts = loaders["test"].dataset
    assert isinstance(excerpts, Excerpts)
    write_heard(folder / RESULTS, estimator, scored, excerpts, data_names(settings))
    with quiet_writer_threads():
        board.scored(plain(settings), scored.scores["estimate"])
    text = f"{text_table(*scores_rows(scored.scores))}\n{folder / ESTIMATOR}; its results: {folder / RESULTS}"
    result(text, estimator=folder / ESTIMATOR, scores=scored.scores)
    return 0


def parser() -> argparse.ArgumentParser:
    """The program's options: one for each field of `TrainingSettings`."""
    default = TrainingSettings()
    p = Parser(__doc__)
    p.add_argument("--sfx", default=default.sfx, help="effects that process the music (default %(default)s)")
    p.add_argument("--afx", default=default.afx, help="effects that are estimated (default %(default)s)")
    p.add_argument("--encoder", default=default.encoder, choices=ENCODERS, help="default %(default)s")
    text = "loss of the rendered audio, or of the parameters (default %(default)s)"
    p.add_argument("--loss", default=default.loss, choices=objectives(), help=text)
    add_music(p)
    for name, kind, text in (
        ("epochs", positive_int, "default %(default)s, a draft; published 400"),
        ("epoch_items", positive_int, "excerpts of an epoch (default %(default)s)"),
        ("valid_items", positive_int, "excerpts of the validation (default %(default)s)"),
        ("test_items", positive_int, "excerpts of the test (default %(default)s)"),
        ("batch_size", positive_int, "default %(default)s; published 16"),
        ("lr", positive_float, "learning rate of Adam (default %(default)g)"),
        ("lr_patience", positive_int, "epochs without improvement before lr falls to a tenth (default %(default)s)"),
        ("stop_patience", positive_int, "epochs without improvement before the end (default %(default)s)"),
        ("seed", non_negative_int, "of weights, excerpts and parameters (default %(default)s)"),
    ):
        p.add_argument(f"--{name}", type=kind, default=getattr(default, name), help=text)
    p.add_argument("--device", default=default.device, help="auto, cpu or cuda (default %(default)s)")
    text = "GPUs of each machine, or processes on CPUs, which share every batch (default %(default)s)"
    p.add_argument("--devices", type=integer(1, MOST_PROCESSES), default=default.devices, help=text)
    text = "machines, each started by torchrun or srun (default %(default)s)"
    p.add_argument("--nodes", type=integer(1, MOST_PROCESSES), default=default.nodes, help=text)
    text = "floating-point precision of the networks (default %(default)s)"
    p.add_argument("--precision", default=default.precision, choices=PRECISIONS, help=text)
    p.add_argument("--init", type=file_path, metavar="FILE", help="start from the weights of this estimator.pt")
    p.add_argument("--prefix", default=default.prefix, help="first words of the run's name")
    p.add_argument("--suffix", default=default.suffix, help="last words of the run's name")
    p.add_argument("--resume", action="store_true", help="continue an interrupted or finished run of this name")
    return p


if __name__ == "__main__":
    sys.exit(main())
