"""Fits an effect chain to dry/wet pairs of recordings: which effects, with which settings, made the wet one?

    python main.py                                                   the built-in pair
    python main.py dry=voice.wav wet=mix_vocal.flac                  any two files
    python main.py data_dir=medleydb/Audio/AimeeNorwich_Child        the vocal tracks of a MedleyDB song
    python main.py data_dir=my_pairs epochs=400 optimiser.method=annealed    fewer, larger steps
    python main.py data_dir=my_pairs epochs=500 optimiser.lr=0.005 model=eq_comp
    python main.py … chain.sends.reverb.ir_duration=6                any option or range inside the chain

Results go to <log_dir>/<wet file's name>/run_<N>. Ctrl-C keeps the best so far; resume=true goes on from there.
"""

import logging
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

from afx import kernels
from afx.effect import Knobs, flatten, nest
from afx.published_config import from_published_settings
from afx.registry import build
from afx.stream import render
from data import runs
from data.audio import write_audio
from data.config import Setting, load_settings, merge
from data.crops import cut_chunks
from data.pairs import DATASETS, Pair, PairFiles, find_pairs, load_pair
from engine.device import pick_device
from engine.fit import Fit, FitError, run
from engine.interrupt import Interrupt
from engine.memory import keep_freed_memory
from engine.optimiser import METHODS
from losses import VocalLoss
from report.board import Board
from report.tables import settings_table

CHAINS = Path(__file__).parent / "cfg" / "model"
CHECKPOINT_EVERY_S = 30

SETTINGS = (
    Setting("dataset", str, None, f"how to find the pairs: {', '.join(DATASETS)}; found out when not given"),
    Setting("data_dir", str, None, "folder of a song, or of pairs"),
    Setting("dry", str, None, "unprocessed recording"),
    Setting("wet", str, None, "processed recording"),
    Setting("align", bool, True, "roll the dry file onto the wet one, by the peak of their cross-correlation"),
    Setting("check_pair", bool, True, "refuse a wet file that does not come from the dry one"),
    Setting("log_dir", str, "logs", "folder of the run folders"),
    Setting("resume", bool, False, "go on with the newest run of a track if it was interrupted"),
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
    Setting("seed", int, 0, "of the random defaults and of the draws of chunks"),
)


def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        settings = read_settings(argv)
        found = find_pairs(settings["dataset"], settings["data_dir"], settings["dry"], settings["wet"])
    except ValueError as error:
        print(f"main.py: {error}", file=sys.stderr)
        return 2
    for reason in found.skipped:
        print(f"skipped {reason}")
    keep_freed_memory()
    failed = 0
    with Interrupt() as interrupt:
        for files in found.files:
            if interrupt.asked:
                break
            try:
                fit_pair(files, settings, interrupt)
            except (ValueError, FitError) as error:
                print(f"main.py: {error}", file=sys.stderr)
                failed += 1
    if failed and len(found.files) > 1:
        print(f"main.py: {failed} of {len(found.files)} pairs failed", file=sys.stderr)
    return 130 if interrupt.asked else 2 if failed else 0


def read_settings(argv: list[str]) -> dict:
    """Checked settings by dotted name, with the whole chain under `chain`."""
    settings = load_settings(SETTINGS, argv, description=__doc__, translate=from_published_settings)
    for name in ("sr", "chunk_duration", "batch_size", "epochs", "optimiser.lr"):
        if not settings[name] > 0:
            raise ValueError(f"{name}={settings[name]}: must be above 0")
    if settings["optimiser.method"] not in METHODS:
        raise ValueError(f"optimiser.method={settings['optimiser.method']}: unknown; known: {', '.join(METHODS)}")
    if settings["model"]:
        chain, _ = runs.read_chain_file(chain_file(settings["model"]))
        settings["chain"] = merge(chain, settings["chain"])
    if not settings["chain"]:
        raise ValueError("the chain is empty: choose a model, or put effects into chain")
    return settings


def chain_file(model: str) -> Path:
    """The file of a chain in cfg/model, or of a path."""
    known = sorted(p.stem for p in CHAINS.glob("*.yaml"))
    if model not in known and not Path(model).suffix:
        raise ValueError(f"unknown model {model!r}; known: {', '.join(known)}, or a path to a YAML file")
    return CHAINS / f"{model}.yaml" if model in known else Path(model)


def fit_pair(files: PairFiles, settings: dict, interrupt: Interrupt) -> None:
    """Fits one pair, writes its run folder and prints what came out."""
    sr = settings["sr"]
    pair = load_pair(files, sr, settings["lufs"], align=settings["align"], check=settings["check_pair"])
    device = pick_device(settings["device"])
    if not kernels.compiled():
        print("first run on this machine: compiling the sample loops, about a minute, once", flush=True)
    chain = build(settings["chain"], sr).to(device)
    knobs = Knobs(chain, torch.Generator().manual_seed(settings["seed"])).to(device)
    fit = Fit(
        chain,
        knobs,
        VocalLoss(sr, settings["loss.weights"], settings["loss.mldr_rows"]),
        cut_chunks(pair, settings["chunk_duration"], settings["chunk_overlap"]),
        lr=settings["optimiser.lr"],
        batch_size=settings["batch_size"],
        seed=settings["seed"],
        epochs=settings["epochs"],
        method=settings["optimiser.method"],
    )
    folder = open_run(fit, settings, pair.name)
    print(f"{pair.name}: {fit.dry.shape[0]} chunks of {settings['chunk_duration']:g} s, {device}, {folder}")
    board = Board(folder, fit.step_count)
    ended = "error"
    try:
        ended = fit_with_progress(fit, folder, board, interrupt)
    finally:
        save(fit, pair, folder, ended)
    if not fit.losses:
        return
    values = fit.take_best()
    fitted = render(chain.eval(), values, pair.dry.to(device)).cpu()
    write_audio(folder / "fitted.wav", fitted, sr)
    board.audio({"dry": pair.dry, "wet": pair.wet, "fitted": fitted}, sr)
    board.close()
    print(settings_table(chain, values))
    print(f"{pair.name}: loss {fit.losses[0]:.3f} -> {fit.best.loss:.3f} in {fit.step_count} steps; {folder}")
    for line in fit.undone:
        print(line)


def open_run(fit: Fit, settings: dict, name: str) -> Path:
    """A new run folder, or the interrupted one, whose state the fit takes over."""
    folder = runs.interrupted_run(settings["log_dir"], name) if settings["resume"] else None
    if folder is None:
        folder = runs.new_run(settings["log_dir"], name)
        runs.begin(folder, nest(settings))
        return folder
    runs.check_same_fit(folder, nest(settings))
    state = runs.load_checkpoint(folder)
    try:
        fit.load_state_dict(state)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{folder}: its checkpoint is of another fit; use resume=false for a new run") from error
    return folder


def fit_with_progress(fit: Fit, folder: Path, board: Board, interrupt: Interrupt) -> str | None:
    """The loop with one progress bar, a checkpoint now and then, and scalars; why it ended early, or None."""
    saved = time.monotonic()
    with tqdm(total=fit.epochs, initial=fit.step_count, unit="step", dynamic_ncols=True) as bar:

        def on_step(terms: dict[str, float]) -> None:
            nonlocal saved
            bar.set_postfix({name: f"{value:.3f}" for name, value in terms.items()}, refresh=False)
            bar.update()
            board.scalars(fit.step_count - 1, terms, fit.values())
            if time.monotonic() - saved > CHECKPOINT_EVERY_S:
                runs.save_checkpoint(folder, fit.state_dict())
                saved = time.monotonic()

        return run(fit, on_step=on_step, stopped=interrupt)


def save(fit: Fit, pair: Pair, folder: Path, ended: str | None) -> None:
    """Checkpoint, best parameters in physical units, and the record of the run."""
    runs.save_checkpoint(folder, fit.state_dict())
    record = {
        "input_path": str(pair.dry_path),
        "target_path": str(pair.wet_path),
        "alignment_shift": pair.alignment_shift,
        "losses": fit.losses,
        "terminated_by": ended,
        "undone": fit.undone,
    }
    runs.finish(folder, flatten(fit.take_best()), record)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
