"""Mean and covariance of a preset set's raw parameters.

    python scripts/pca_trsfm.py selected-runs/medley_vox
    python scripts/pca_trsfm.py selected-runs/medley_vox --exclude 3,17,40-44
    python scripts/pca_trsfm.py selected-runs/medley_vox --exclude left_out.txt

Writes feature_mask.npy (the free, non-redundant parameters) and gaussian.npz (mean, cov) to the set's folder, and with
--exclude train_index.npy, the remaining rows. An existing train_index.npy is still used.
"""

from reknob.runtime.program import program

import argparse
import sys

import numpy as np

from reknob.formats.preset_set import open_set
from reknob.formats.presets import TRAIN_INDEX, fit_gaussian, read_row_numbers, read_rows, write_gaussian
from reknob.runtime.arguments import Parser, file_path
from reknob.runtime.files import write_array
from reknob.runtime.output import result


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    args = parser().parse_args(argv)
    own = open_set(args.presets, args.fx_config)
    presets, index = own.presets, args.presets / TRAIN_INDEX
    rows = list(range(len(presets)))
    if args.exclude is not None:
        # `none` undoes an earlier --exclude, whose index would otherwise still be used.
        excluded = set() if args.exclude == "none" else set(read_rows(args.exclude, presets))
        rows = [row for row in rows if row not in excluded]
    elif index.exists():
        rows = read_row_numbers(index, len(presets))
    gaussian = fit_gaussian(own.vectors[rows], own.effect)
    write_gaussian(args.presets, gaussian)
    if len(rows) < len(presets):
        write_array(index, np.asarray(rows, dtype=np.int64))
    else:
        # An index of an earlier call would restrict what reads the set later.
        index.unlink(missing_ok=True)
    result(
        f"{args.presets}: mean and covariance of {len(gaussian.mean)} of {len(gaussian.mask)} parameters over "
        f"{len(rows)} of {len(presets)} presets",
        folder=args.presets,
        free_parameters=len(gaussian.mean),
        rows=rows,
    )
    return 0


def parser() -> argparse.ArgumentParser:
    """The program's options."""
    p = Parser(__doc__)
    p.add_argument("presets", type=file_path, help="folder of the preset set")
    p.add_argument(
        "--exclude",
        metavar="ROWS",
        help="rows to leave out: numbers and ranges, names of dry files or tracks, or a file of them; none for no row",
    )
    p.add_argument("--fx-config", type=file_path, metavar="YAML", help="chain of the set (default: the set's)")
    return p


if __name__ == "__main__":
    sys.exit(main())
