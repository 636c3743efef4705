"""What a blind estimator is trained on: loaders of excerpts of one or several data sets."""

from pathlib import Path

from torch.utils.data import DataLoader
from tqdm import tqdm

from reknob.data.excerpts import Excerpts, excerpt_loader
from reknob.data.generated import prepare_generated
from reknob.data.recordings import Recording, find_recordings
from reknob.runtime.errors import UsageError
from reknob.runtime.files import user_path
from reknob.runtime.seeds import stream_seed

SR = 44100  # Hz, of estimators
# Length of a generated piece in s, and how much longer than an excerpt it is at least.
PIECE, MARGIN = 12.0, 2.0


def build_loaders(settings: dict, n_controls: int) -> tuple[dict[str, DataLoader], list[str]]:
    """Loaders of excerpts by split, and what of the data sets was left out and why, a line each.

    Those of validation and test give the same items every time.

    `settings` are those of train_analysis_net.py, by name. UsageError where its data sets and folders do not match, and
    for what their readers refuse.
    """
    sizes = {"train": settings["epoch_items"], "valid": settings["valid_items"], "test": settings["test_items"]}
    sources, skipped = find_sources(settings, sizes)
    loaders = {}
    for split, items in sizes.items():
        seed = stream_seed(settings["seed"], "excerpts", split)
        excerpts = Excerpts(sources[split], n_controls, items, seed, sr=SR, seconds=settings["seconds"])
        loaders[split] = excerpt_loader(excerpts, settings["batch_size"], settings["workers"], fresh=split == "train")
    return loaders, skipped


def find_sources(settings: dict, sizes: dict[str, int]) -> tuple[dict[str, list[list[Recording]]], list[str]]:
    """Recordings by split, a list for each data set, and what was left out and why, a line each.

    Generated pieces are made where they are missing: `settings["pieces"]` to train on, `sizes` of the other splits.
    UsageError where data sets and folders do not match, and for what their readers refuse.
    """
    # A folder may hold more generated pieces, of another run.
    pieces = sizes | {"train": settings["pieces"]}
    sources: dict[str, list] = {split: [] for split in sizes}
    skipped: list[str] = []
    for data, folder in data_folders(settings):
        if data == "generated":
            generate(Path(folder), pieces, settings)
        found = {split: find_recordings(data, folder, split, settings["seconds"]) for split in sizes}
        skipped += dict.fromkeys(reason for each in found.values() for reason in each.skipped)
        for split in sizes:
            sources[split].append(found[split].recordings[: pieces[split] if data == "generated" else None])
    return sources, skipped


def data_folders(settings: dict) -> list[tuple[str, Path | None]]:
    """The data sets to be heard and their folders, if any; UsageError where their numbers differ."""
    kinds = settings["data"].split(",")
    given = settings["data_dir"].split(",") if settings["data_dir"] else [None] * len(kinds)
    folders = [folder and user_path(folder) for folder in given]
    if len(kinds) != len(folders):
        raise UsageError(
            f"--data names {len(kinds)} data sets and --data_dir {len(folders)} folders; give as many of each"
        )
    made = Path(settings["log_dir"]) / "generated"
    return [
        (kind, folder or (made if kind == "generated" else None)) for kind, folder in zip(kinds, folders, strict=True)
    ]


def generate(folder: Path, counts: dict[str, int], settings: dict) -> None:
    """Makes the pieces that are missing, one progress bar for all."""
    with tqdm(desc="generating music", unit="piece", dynamic_ncols=True) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        seconds = max(PIECE, settings["seconds"] + MARGIN)
        prepare_generated(folder, counts, seconds, SR, max(settings["workers"], 1), progress)
