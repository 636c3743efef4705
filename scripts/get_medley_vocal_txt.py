"""Lists the MedleyDB songs that have a vocal stem made from one raw track, one song folder a line.

    python scripts/get_medley_vocal_txt.py /data/medley1/v1/Audio --out scripts/medley_vocals_list.txt

ROOT holds the song folders at any depth, or only the *_METADATA.yaml files; for a song without a folder the line is
where the folder would be. --verbose lists the songs that are left out, with the reason.
"""

from reknob.runtime.program import print_error, program

import argparse
import sys
from pathlib import Path

from reknob.data.pair_files import vocal_stems
from reknob.runtime.arguments import Parser, file_path
from reknob.runtime.errors import UsageError
from reknob.runtime.files import check_output, write_text
from reknob.runtime.output import counted, is_quiet, result
from reknob.runtime.settings import read_yaml

SUFFIX = "_METADATA.yaml"


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    args = parser().parse_args(argv)
    if args.out:
        check_output(args.out)
    songs, skipped = vocal_songs(args.root)
    listing = "".join(f"{song}\n" for song in songs)
    if args.out:
        write_text(args.out, listing)
    result("" if args.out else listing, songs=songs, skipped=skipped)
    # On stderr, so that standard output is the list alone and can be redirected.
    if args.verbose:
        for reason in skipped:
            print_error(f"skipped {reason}")
    if not is_quiet():
        print_error(f"{counted(len(songs), 'song')} with vocals")
    return 0


def vocal_songs(root: Path) -> tuple[list[Path], list[str]]:
    """The song folders below `root` with a vocal stem of one raw track, sorted, and the reasons against the others."""
    files = {path.name.removesuffix(SUFFIX): path for path in sorted(root.rglob(f"*{SUFFIX}"))}
    if not files:
        raise UsageError(f"{root}: holds no *{SUFFIX} at any depth; give the root of MedleyDB")
    folders = {path.name: path for path in root.rglob("*") if path.name in files and path.is_dir()}
    songs, skipped = [], []
    for song, path in files.items():
        folder = folders.get(song, path.parent / song)
        try:
            stems = vocal_stems(read_yaml(path), folder)
        except ValueError as error:
            skipped.append(str(error))
            continue
        skipped += stems.skipped
        if stems.files:
            songs.append(folder)
    return sorted(songs), skipped


def parser() -> argparse.ArgumentParser:
    """The program's options."""
    p = Parser(__doc__)
    p.add_argument("root", metavar="ROOT", type=file_path, help="folder of MedleyDB, or of its metadata")
    p.add_argument("--out", type=file_path, metavar="FILE", help="file of the list (default: standard output)")
    p.add_argument("--verbose", action="store_true", help="list the songs that are left out, with the reason")
    return p


if __name__ == "__main__":
    sys.exit(main())
