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
from dataclasses import asdict

from reknob.data.pair_files import find_songs
from reknob.fitting.command_line import read_settings
from reknob.fitting.session import Outcome, Session
from reknob.report.board import TensorBoardWriter
from reknob.report.page.observer import ReportWriter
from reknob.report.progress import Progress, summary
from reknob.runtime.files import user_path
from reknob.runtime.interrupt import Interrupt
from reknob.runtime.memory import keep_freed_memory
from reknob.runtime.output import result


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    settings = read_settings(argv, __doc__)
    songs, skipped, empty = find_songs(
        user_path(settings.log_dir), settings.dataset, settings.data_dir, settings.dry, settings.wet
    )
    keep_freed_memory()
    pairs = [(log_dir, files) for log_dir, found in songs.items() for files in found]
    progress, board = Progress(len(pairs), settings.epochs), TensorBoardWriter(asdict(settings))
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
            result(summary(session.songs, failed=len(empty), skipped=len(skipped)))
        result(songs=progress.records, failed=empty, skipped=skipped)
    written = []
    for path in reports.finish(session.songs):
        written.append(str(path))
        result(f"report: {path}", reports=written)
    if interrupt.asked:
        return INTERRUPTED
    return FAULT if any(song.is_fault for song in failed) else MISTAKE if failed or empty else 0


if __name__ == "__main__":
    sys.exit(main())
