"""Fits an effect chain to dry/wet pairs of recordings: which effects, with which settings, made the wet one?

    python main.py                                                   the built-in pair
    python main.py dry=voice.wav wet=mix_vocal.flac                  any two files
    python main.py data_dir=medleydb/Audio/AimeeNorwich_Child        the vocal tracks of a MedleyDB song
    python main.py data_dir=@songs.txt log_dir=logs resume=true      every song of a list, finished runs left alone
    python main.py data_dir=my_pairs epochs=400 optimiser.method=annealed    fewer, larger steps
    python main.py data_dir=my_pairs epochs=500 optimiser.lr=0.005 model=eq_comp loss.name=mss
    python main.py … chain.sends.reverb.ir_duration=6                any option or range inside the chain

Several pairs are fitted together, as many as fit into memory. Results go to <log_dir>/<wet file's name>/run_<N>.
Ctrl-C keeps the best so far; resume=true continues from there.
"""

from reknob.runtime.program import FAULT, INTERRUPTED, MISTAKE, print_error, program

import sys
from collections.abc import Collection
from dataclasses import asdict

from reknob.data.pair_files import DATASETS, find_songs
from reknob.fitting.session import Outcome, Session
from reknob.fitting.settings import FitSettings
from reknob.formats.published_config import from_published_settings
from reknob.report.board import TensorBoardWriter
from reknob.report.page.observer import ReportWriter
from reknob.report.progress import Progress, summary
from reknob.runtime.files import user_path
from reknob.runtime.interrupt import Interrupt
from reknob.runtime.memory import keep_freed_memory
from reknob.runtime.settings import load_settings
from reknob.runtime.trees import interpolated


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    settings = read_settings(argv)
    songs, skipped, empty = find_songs(
        user_path(settings.log_dir), settings.dataset, settings.data_dir, settings.dry, settings.wet
    )
    keep_freed_memory()
    pairs = [(log_dir, files) for log_dir, found in songs.items() for files in found]
    progress, board = Progress(len(pairs), settings.epochs), TensorBoardWriter()
    reports = ReportWriter()
    session = Session(settings, (progress, board, reports) if settings.report else (progress, board))
    # Before the bar is drawn, which they would interrupt.
    for line in (*(f"skipped {reason}" for reason in skipped), *(f"failed: {reason}" for reason in empty)):
        print(line, flush=True)
    try:
        with Interrupt() as interrupt, progress, board:
            session.fit(pairs, interrupt)
    finally:
        failed = [song for song in session.songs if song.outcome is Outcome.FAILED]
        # Also where the session raises, as at a second Ctrl-C. Of a single song nothing else prints the reason.
        for reason in (*empty, *(song.reason for song in failed)):
            print_error(f"main.py: {reason}")
        if len(pairs) + len(empty) + len(skipped) > 1:
            print(summary(session.songs, failed=len(empty), skipped=len(skipped)))
    for path in reports.finish(session.songs):
        print(f"report: {path}")
    if interrupt.asked:
        return INTERRUPTED
    return FAULT if any(song.is_fault for song in failed) else MISTAKE if failed or empty else 0


def read_settings(argv: list[str]) -> FitSettings:
    """Checked settings, with the whole chain under `chain`."""
    of_file: dict = {}

    def translate(tree: dict, given: Collection[str]) -> dict:
        tree = _of_file(tree, given)
        if isinstance(tree.get("chain"), dict):
            # Kept apart: the file's chain changes that of `model`, which a flag may choose, and flags change both.
            of_file.update(tree.pop("chain"))
        return tree

    settings = load_settings(FitSettings, argv, description=__doc__ or "", translate=translate)
    settings.read_model(interpolated({"chain": of_file}, asdict(settings))["chain"])
    settings.check()
    return settings


def _of_file(tree: dict, given: Collection[str]) -> dict:
    """Our settings of a configuration file; paths of the command line take the place of the file's."""
    tree = from_published_settings(tree)
    others = {"dry": ("data_dir",), "wet": ("data_dir",), "data_dir": ("dry", "wet")}
    replaced = {name for path in others if path in given for name in others[path]}
    takes = DATASETS[tree["dataset"]].arguments if tree.get("dataset") in DATASETS else None
    # Paths of the command line may not suit the file's data set: then it is dropped, and inferred from the paths.
    if takes is not None and "dataset" not in given and any(path in given and path not in takes for path in others):
        replaced.add("dataset")
    return {name: value for name, value in tree.items() if name not in replaced}


if __name__ == "__main__":
    sys.exit(main())
