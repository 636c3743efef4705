"""The music that estimators are trained on: where it comes from, and loaders of excerpts of it."""

from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from torch.utils.data import DataLoader

from reknob.data.excerpts import ALONE, Excerpts, Share, excerpt_loader
from reknob.data.generated import prepare_generated
from reknob.data.recordings import Recording, find_recordings
from reknob.estimation.trainer import plain
from reknob.runtime.bars import progress_bar
from reknob.runtime.errors import UsageError
from reknob.runtime.files import user_path
from reknob.runtime.seeds import stream_seed

SR = 44100  # Hz, of estimators
# Length of a generated piece in s, and how much longer than an excerpt it is at least, so that excerpts begin at random
# places. One length for all shorter excerpts, as a folder whose pieces have another length is refused.
PIECE, MARGIN = 12.0, 2.0
#: Settings that an estimator's record leaves out.
PRIVATE = {"data_dir", "log_dir", "init", "checkpoint", "out", "overwrite", "resume"}
#: Recordings of one split, a list for each data set.
Sources = list[list[Recording]]


@dataclass(frozen=True, kw_only=True)
class MusicSettings:
    """The music to train on; names and defaults are those of the options that `add_music` adds.

    Args:
        data: kinds of the data sets, with commas between.
        data_dir: a folder for each of them, with commas between; None where the kind has a default one.
        pieces: number of generated pieces in the training split.
        seconds: length of an excerpt.
        coded: share of the processed excerpts that are encoded and decoded by a lossy codec.
        workers: number of processes that read, generate or process music.
        log_dir: folder of the runs, and of generated music without a folder in `data_dir`.
    """

    data: str = "generated"
    data_dir: str | None = None
    pieces: int = 300
    seconds: float = 10.0
    coded: float = 0.0
    workers: int = 1
    log_dir: Path = Path("logs")

    def record(self) -> dict[str, str | float | None]:
        """What an estimator's record holds of the settings: all but paths of the machine that it was made on."""
        return {name: value for name, value in plain(self).items() if name not in PRIVATE}


@dataclass(frozen=True, kw_only=True)
class FileSettings(MusicSettings):
    """Settings of the programs that work on cached statistics and write one estimator to a file.

    Args:
        valid_items: number of excerpts of the validation split.
        test_items: number of excerpts of yet other recordings that the estimator is scored on; 0 for no results.
        untouched: share of the excerpts that are not processed.
        limited: half of it each have a band limit before the processing, one after it, and a low level at 16 bits.
        seed: of weights, excerpts and parameters.
        out, overwrite: the file to write, and whether it may exist.
    """

    valid_items: int = 400
    test_items: int = 100
    untouched: float = 0.0
    limited: float = 0.0
    seed: int = 0
    out: Path = Path("estimator.pt")
    overwrite: bool = False

    @property
    def sizes(self) -> dict[str, int]:
        """Number of generated pieces by split: a tenth of those of the training for each of the others."""
        tenth = max(self.pieces // 10, 1)
        return {"train": self.pieces, "valid": tenth} | ({"test": tenth} if self.test_items else {})


def build_loaders(
    music: MusicSettings, sizes: dict[str, int], n_controls: int, *, batch_size: int, seed: int, share: Share = ALONE
) -> tuple[dict[str, DataLoader], list[str]]:
    """Loaders of `sizes[split]` excerpts by split, and one line for everything of the data sets that is left out.

    "train" yields other excerpts in each epoch, the other splits the same ones; of "train" and "valid" only a `share`
    of every batch. Raises UsageError where data sets and folders do not match, and what `find_recordings` raises.
    """
    sources, skipped = find_sources(music, sizes)
    loaders = {}
    for split, items in sizes.items():
        # With one seed for all, items of equal index would have the same controls in every split.
        excerpts_seed = stream_seed(seed, "excerpts", split)
        excerpts = Excerpts(sources[split], n_controls, items, excerpts_seed, sr=SR, seconds=music.seconds)
        mine = ALONE if split == "test" else share
        loaders[split] = excerpt_loader(excerpts, batch_size, music.workers, fresh=split == "train", share=mine)
    return loaders, skipped


def find_sources(music: MusicSettings, sizes: dict[str, int]) -> tuple[dict[str, Sources], list[str]]:
    """Recordings by split, and one line for everything that is left out, with the reason.

    Missing generated pieces are generated: `music.pieces` for "train", `sizes[split]` for the other splits. Raises
    UsageError where data sets and folders do not match, and what `find_recordings` raises.
    """
    pieces = sizes | {"train": music.pieces}
    sources: dict[str, Sources] = {split: [] for split in sizes}
    skipped: list[str] = []
    for data, folder in data_folders(music):
        if data == "generated" and folder:
            generate(folder, pieces, music)
        listings = {split: find_recordings(data, folder, split, music.seconds) for split in sizes}
        # Every split's listing names what the whole data set lacks.
        skipped += dict.fromkeys(reason for listing in listings.values() for reason in listing.skipped)
        for split in sizes:
            # The folder may hold more generated pieces, of another run.
            sources[split].append(listings[split].recordings[: pieces[split] if data == "generated" else None])
    return sources, skipped


def data_folders(music: MusicSettings) -> list[tuple[str, Path | None]]:
    """The data sets' kinds and folders; UsageError where there are not as many of each."""
    kinds = music.data.split(",")
    given = music.data_dir.split(",") if music.data_dir else [""] * len(kinds)
    if len(kinds) != len(given):
        raise UsageError(
            f"--data names {len(kinds)} data sets and --data_dir {len(given)} folders; give as many of each"
        )
    defaults = {"generated": Path(music.log_dir) / "generated"}
    return [
        (kind, user_path(folder) if folder else defaults.get(kind)) for kind, folder in zip(kinds, given, strict=True)
    ]


def data_names(music: MusicSettings) -> list[str]:
    """What the data sets are called: by their folder, or by their kind where that has a default one."""
    named = zip(data_folders(music), (music.data_dir or "").split(","), strict=False)
    return [folder.name if folder and given else kind for (kind, folder), given in named]


def generate(folder: Path, counts: dict[str, int], music: MusicSettings) -> None:
    """Generates the pieces that `folder` lacks, `counts` by split, under one progress bar."""
    with progress_bar(title="generating music", unit="piece") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        seconds = max(PIECE, music.seconds + MARGIN)
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Of several processes the first generates, and the others find what it has made.
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            prepare_generated(folder, counts, seconds, SR, max(music.workers, 1), progress)
