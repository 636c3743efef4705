"""Fits an effect chain to dry/wet pairs of recordings: which effects, with which settings, made the wet one?

    python main.py                                                   the built-in pair
    python main.py dry=voice.wav wet=mix_vocal.flac                  any two files
    python main.py data_dir=medleydb/Audio/AimeeNorwich_Child        the vocal tracks of a MedleyDB song
    python main.py data_dir=@songs.txt log_dir=logs resume=true      every song of a list, what is done left alone
    python main.py data_dir=my_pairs epochs=400 optimiser.method=annealed    fewer, larger steps
    python main.py data_dir=my_pairs epochs=500 optimiser.lr=0.005 model=eq_comp
    python main.py … chain.sends.reverb.ir_duration=6                any option or range inside the chain

Several pairs are fitted together, as many as the memory holds. Results go to <log_dir>/<wet file's name>/run_<N>.
Ctrl-C keeps the best so far; resume=true goes on from there.
"""

from runtime.program import INTERRUPTED, program, tell

import sys
from pathlib import Path

from data.pairs import DATASETS, find_songs
from fitting.optimiser import METHODS
from formats import runs
from formats.published_config import from_published_settings
from report.session import Session
from runtime.errors import UsageError
from runtime.interrupt import Interrupt
from runtime.memory import keep_freed_memory
from runtime.settings import Setting, load_settings, merge

CHAINS = Path(__file__).parent / "cfg" / "model"

SETTINGS = (
    Setting("dataset", str, None, f"how to find the pairs: {', '.join(DATASETS)}; found out when not given"),
    Setting("data_dir", str, None, "folder of a song, or of pairs; @LIST: a file with such folders, one a line"),
    Setting("dry", str, None, "unprocessed recording"),
    Setting("wet", str, None, "processed recording"),
    Setting("align", bool, True, "roll the dry file onto the wet one, by the peak of their cross-correlation"),
    Setting("check_pair", bool, True, "refuse a wet file that does not come from the dry one"),
    Setting("log_dir", str, "logs", "folder of the run folders"),
    Setting("resume", bool, False, "go on with the newest run of a track; leave it alone if it has its epochs"),
    Setting("model", str, "diffvox", "chain file in cfg/model, or a path; null: `chain` says it all", nullable=True),
    Setting("chain", dict, {}, "changes inside the chain, as chain.sends.reverb.ir_duration=6"),
    Setting("sr", int, 44100, "sample rate in Hz; other files are resampled"),
    Setting("lufs", float, -18.0, "loudness that dry and wet are brought to; null keeps their levels", nullable=True),
    Setting("chunk_duration", float, 12.0, "length of a chunk in s"),
    Setting("chunk_overlap", float, 5.0, "part of a chunk in s that only warms the effects up"),
    Setting("batch_size", int, 35, "most chunks of a step"),
    Setting("epochs", int, 2000, "number of steps"),
    Setting("optimiser.lr", float, 0.01, "learning rate of Adam"),
    Setting("optimiser.method", str, "adam", "adam, as published; annealed: larger steps that shrink, for 400 epochs"),
    Setting("loss.weights", list, [1.0, 0.5, 0.5, 0.25], "of MSS l/r, MSS m/s, MLDR l/r, MLDR m/s"),
    Setting("loss.mldr_rows", str, "separate", "separate, or rolled as in the published release"),
    Setting("device", str, "auto", "auto, cpu or cuda"),
    Setting("graph", bool, False, "on a GPU: record a step once and replay it as one launch"),
    Setting("memory_gb", float, None, "what steps may take of the memory; found out when not given"),
    Setting("seed", int, 0, "of the random defaults and of the draws of chunks"),
)


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    settings = read_settings(argv)
    songs, skipped, empty = find_songs(settings)
    keep_freed_memory()
    session = Session(settings)
    for reason in skipped:
        print(f"skipped {reason}")
    pairs = [(log_dir, files) for log_dir, found in songs.items() for files in found]
    with Interrupt() as interrupt:
        try:
            session.fit(pairs, interrupt)
        finally:
            failed = empty + session.failed
            for reason in failed:
                tell(f"main.py: {reason}")
    if len(pairs) + len(empty) > 1:
        print(f"{session.fitted} fitted, {session.done_before} done before, {len(failed)} failed")
    return INTERRUPTED if interrupt.asked else 2 if failed else 0


def read_settings(argv: list[str]) -> dict:
    """Checked settings by dotted name, with the whole chain under `chain`."""
    settings = load_settings(SETTINGS, argv, description=__doc__, translate=from_published_settings)
    for name in ("sr", "chunk_duration", "batch_size", "epochs", "optimiser.lr", "memory_gb"):
        if settings[name] is not None and not settings[name] > 0:
            raise UsageError(f"{name}={settings[name]}: must be above 0")
    if settings["optimiser.method"] not in METHODS:
        raise UsageError(f"optimiser.method={settings['optimiser.method']}: unknown; known: {', '.join(METHODS)}")
    if settings["model"]:
        chain, _ = runs.read_chain_file(chain_file(settings["model"]))
        settings["chain"] = merge(chain, settings["chain"])
    if not settings["chain"]:
        raise UsageError("the chain is empty: choose a model, or put effects into chain")
    return settings


def chain_file(model: str) -> Path:
    """The file of a chain in cfg/model, or of a path."""
    known = sorted(p.stem for p in CHAINS.glob("*.yaml"))
    if model not in known and not Path(model).suffix:
        raise UsageError(f"unknown model {model!r}; known: {', '.join(known)}, or a path to a YAML file")
    return CHAINS / f"{model}.yaml" if model in known else Path(model)


if __name__ == "__main__":
    sys.exit(main())
