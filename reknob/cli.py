"""The command `reknob`: every program of the project by one name.

    reknob fit dry=voice.wav wet=mix_vocal.flac          as python main.py …
    reknob render --run logs/voice/run_0 in.wav out.wav  as python scripts/render.py …
    reknob fit --help                                    the options of one of them
"""

from reknob.runtime.program import program

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module

import reknob
from reknob.runtime.errors import UsageError

#: Command -> module below `reknob`, and what it does.
COMMANDS = {
    "fit": ("main", "fit a chain to dry/wet pairs"),
    "fleet": ("scripts.fit_many", "fit a chain to many songs, on one machine or a cluster"),
    "fleet-status": ("scripts.fleet_status", "how far a fleet is"),
    "check": ("scripts.check_pair", "check a dry/wet pair before a fit"),
    "render": ("scripts.render", "apply a fitted chain to a recording"),
    "play": ("scripts.play", "stream a recording through a chain, to a file or the speakers"),
    "estimate": ("scripts.estimate", "estimate settings from processed audio alone"),
    "transfer": ("scripts.transfer", "make a raw recording sound like a reference, with presets as a prior"),
    "train": ("train_analysis_net", "train an estimator"),
    "train-statistics": ("scripts.train_on_statistics", "train an estimator on cached statistics"),
    "calibrate": ("scripts.calibrate_estimator", "add intervals and certainty to an estimator"),
    "train-proxy": ("scripts.train_proxy", "train the neural proxy of the compressor"),
    "eval": ("loss_eval", "score a preset set on its recordings"),
    "harvest": ("scripts.get_params", "collect run folders into a preset set"),
    "pca": ("scripts.pca_trsfm", "Gaussian and PCA statistics of a preset set"),
    "presets": ("scripts.presets", "list, compare, map, describe, sample and interpolate presets"),
    "report": ("scripts.report", "write the report of a run, or the page of a log folder, as HTML"),
    "export": ("scripts.export", "write a preset in the format of another program"),
    "app": ("scripts.app", "a web page of this machine: fit, estimate, browse and hear presets"),
    "songs": ("scripts.get_medley_vocal_txt", "list the MedleyDB songs that have vocals"),
    "reproduce": ("scripts.reproduce", "repeat a run from its record, and compare"),
    "make-pairs": ("scripts.make_pairs", "generate voices and processed versions of them"),
}


@program
def main(argv: list[str]) -> int:
    """Runs a command; its exit status."""
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        rows = [f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items()]
        print("usage: reknob COMMAND …\n", *rows, "\nreknob COMMAND --help lists a command's options.", sep="\n")
        return 0
    if argv[0] == "--version":
        print(f"reknob {reknob.__version__}")
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        close = get_close_matches(name, COMMANDS, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UsageError(f"unknown command {name!r}; known: {', '.join(COMMANDS)}{hint}")
    with named(f"reknob {name}"):
        # Imported only now, as torch takes seconds that --help and a misspelt command need not wait for.
        return import_module(f"reknob.{COMMANDS[name][0]}").main(rest)


@contextmanager
def named(command: str) -> Iterator[None]:
    """While it is open, the help calls the program `command`: argparse takes the name from `sys.argv`."""
    console, sys.argv[0] = sys.argv[0], command
    try:
        yield
    finally:
        sys.argv[0] = console


if __name__ == "__main__":
    sys.exit(main())
