"""Makes a raw recording sound like a reference, with presets as a prior; no raw version of the reference is needed.

    python scripts/transfer.py raw.wav reference.wav --prior presets/own
    python scripts/transfer.py raw.wav reference.wav --prior presets/own --report
    python scripts/transfer.py raw.wav reference.wav --prior presets/own --out transfers --method published
    python scripts/transfer.py raws/ reference.wav --prior presets/own       every recording of a folder
    python scripts/transfer.py raws/ references/ --prior presets/own         those of two folders with the same names

Every pair gets a folder OUT/RAW_like_REFERENCE with preset.json, a preset document, and output.wav, the raw recording
at the loudness of the reference. A pair whose folder has a preset.json is left out; --overwrite does it again. Ctrl-C
ends a search early, with the best so far. A pair that fails does not stop the others.
"""

from reknob.runtime.program import INTERRUPTED, MISTAKE, explain, print_error, program, reason

import argparse
import logging
import sys
import time
from itertools import product
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from reknob.afx.registry import build
from reknob.data.audio import loudness, write_audio
from reknob.data.file_lists import list_recordings
from reknob.data.rendering import render_recording
from reknob.formats.preset_document import DOCUMENT, write_document
from reknob.formats.presets import read_chain
from reknob.report.page.transfer import write_transfer_report
from reknob.runtime.arguments import Parser, file_path, input_file, integer, positive_float, real
from reknob.runtime.bars import progress_bar
from reknob.runtime.errors import UsageError
from reknob.runtime.files import check_output
from reknob.runtime.interrupt import Interrupt
from reknob.runtime.output import result
from reknob.transfer.embeddings import EMBEDDINGS
from reknob.transfer.published import ALPHA, STEPS
from reknob.transfer.space import LUFS
from reknob.transfer.task import (
    CHUNK_S,
    METHODS,
    Transfer,
    TransferOptions,
    active_passage,
    load_candidates,
    read_recording,
)

OUTPUT = "output.wav"


class Done(NamedTuple):
    """A folder that was written, and the seconds it took."""

    folder: str
    seconds: float


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    args = parser().parse_args(argv)
    folders = folders_of(args.out, find_pairs(args.raw, args.reference))
    pairs = {folder: pair for folder, pair in folders.items() if args.overwrite or not (folder / DOCUMENT).exists()}
    options = TransferOptions(args.method, args.embedding, args.alpha, args.steps, args.seconds)
    config, sr, _ = read_chain(args.prior[0], args.fx_config)
    chain = build(config, sr).eval()
    transfer = Transfer(config, chain, load_candidates(args.prior, chain, args.exclude), options)
    written, failed = [], []
    with Interrupt() as stopped:
        for number, (folder, (raw, reference)) in enumerate(pairs.items(), 1):
            if stopped():
                break
            try:
                written.append(transfer_one(transfer, raw, reference, folder, args, stopped))
                result(f"{number}/{len(pairs)} {written[-1].folder}: {written[-1].seconds:.0f} s")
            except Exception as error:
                if explain(error) is None:
                    raise
                logging.debug("%s", raw, exc_info=error)
                print_error(f"{number}/{len(pairs)} {raw} like {reference}: failed: {reason(error)}")
                failed.append(str(raw))
    if not pairs:
        result(f"nothing to do: every pair has a {DOCUMENT} in {args.out}; --overwrite does them again")
    result(transfers=[done._asdict() for done in written], failed=failed)
    return INTERRUPTED if stopped() else MISTAKE if failed else 0


def transfer_one(
    transfer: Transfer, raw: Path, reference: Path, folder: Path, args: argparse.Namespace, stopped: Interrupt
) -> Done:
    """Does one pair and writes its folder; what was written."""
    begun = time.perf_counter()
    sr = transfer.chain.sr
    x, y = read_recording(raw, sr), read_recording(reference, sr)
    bars: dict[str, tqdm] = {}

    def on_progress(what: str, done: int, total: int) -> None:
        if what not in bars:
            bars[what] = progress_bar(title=raw.stem, total=total, unit=what)
        bars[what].update(done - bars[what].n)

    try:
        row = transfer(x, y, on_progress, stopped)
    finally:
        for bar in bars.values():
            bar.close()
    document = transfer.document(row, raw, reference, args.prior)
    out = render_recording(transfer.chain, document.tensors(), x, sr, lufs=LUFS, output=loudness(y, sr))
    folder.mkdir(parents=True, exist_ok=True)
    write_audio(folder / OUTPUT, out, sr)
    write_document(folder / DOCUMENT, document)
    if args.report:
        passages = (active_passage(audio, sr, args.seconds) for audio in (x.mean(0, keepdim=True), y.expand(2, -1)))
        write_transfer_report(folder, *passages)
    return Done(str(folder), time.perf_counter() - begun)


def find_pairs(raw: Path, reference: Path) -> list[tuple[Path, Path]]:
    """The pairs of two files, of a folder and a file, or of two folders by name; UsageError where there are none."""
    raws, references = recordings(raw), recordings(reference)
    if not (raw.is_dir() and reference.is_dir()):
        return list(product(raws, references))
    pairs = [(one, other) for one, other in product(raws, references) if one.stem == other.stem]
    if not pairs:
        raise UsageError(f"{raw} and {reference} have no recordings of the same names")
    for one in sorted({*raws, *references} - {each for pair in pairs for each in pair}):
        logging.warning("%s: left out, as the other folder has no recording of its name", one)
    return pairs


def recordings(path: Path) -> list[Path]:
    """A file, or the recordings in a folder, but not those in folders of it; UsageError for a folder without any."""
    found = [each for each in list_recordings([path]) if path in (each, each.parent)]
    if not found:
        raise UsageError(f"{path}: its recordings are in folders below it; give one of these")
    return found


def folders_of(out: Path, pairs: list[tuple[Path, Path]]) -> dict[Path, tuple[Path, Path]]:
    """The pairs by their folders; UsageError for two pairs of one folder, and for one that cannot be written."""
    folders: dict[Path, tuple[Path, Path]] = {}
    for raw, reference in pairs:
        folder = out / f"{raw.stem}_like_{reference.stem}"
        if folder in folders:
            both = " and ".join(str(one) for one in dict.fromkeys([*folders[folder], raw, reference]))
            raise UsageError(f"{folder}: would be of {both}; rename one, or give another --out for it")
        check_output(folder / OUTPUT, [raw, reference], new_folder=True)
        folders[folder] = raw, reference
    return folders


def parser() -> argparse.ArgumentParser:
    """The program's options."""
    p = Parser(__doc__)
    p.add_argument("raw", type=input_file, help="the raw recording, or a folder of them")
    p.add_argument("reference", type=input_file, help="the recording that it should sound like, or a folder of them")
    p.add_argument(
        "--prior", type=file_path, nargs="+", required=True, metavar="PRESETS", help="preset sets, of one chain"
    )
    p.add_argument("--out", type=file_path, default=Path("transfers"), metavar="OUT", help="folder (default transfers)")
    p.add_argument("--method", choices=METHODS, default=METHODS[0], help=f"default {METHODS[0]}")
    p.add_argument(
        "--embedding", choices=list(EMBEDDINGS), default="mfcc", help="for published and nearest (default mfcc)"
    )
    p.add_argument(
        "--alpha", type=real(0, 1e6), default=ALPHA, help=f"published: weight of the prior (default {ALPHA})"
    )
    p.add_argument("--steps", type=integer(1), default=STEPS, help=f"published: steps of Adam (default {STEPS})")
    p.add_argument(
        "--seconds", type=positive_float, default=CHUNK_S, help=f"length of the excerpt (default {CHUNK_S:g})"
    )
    p.add_argument("--exclude", metavar="ROWS", help="presets to leave out: 0,5-9, names of tracks, or a file of them")
    p.add_argument("--report", action="store_true", help="also write a page, to hear and to see what was done")
    p.add_argument("--fx-config", type=file_path, metavar="YAML", help="chain of the set (default: its own)")
    p.add_argument("--overwrite", action="store_true", help="repeat pairs that are already done")
    return p


if __name__ == "__main__":
    sys.exit(main())
