"""Songs on the machine that fits them: recordings and runs are fetched from their places, and runs are put back."""

import json
from hashlib import sha256
from pathlib import Path

from reknob.data.pair_files import PairFiles
from reknob.fleet.songs import Song
from reknob.fleet.store import Store, is_url
from reknob.formats import runs


class LocalCopies:
    """The recordings of songs on this machine, and the folder `log_dir` that their runs are written to.

    Args:
        store: the results; of those on a disk nothing is copied.
        scratch: an empty folder.
    """

    def __init__(self, store: Store, scratch: Path) -> None:
        self.store, self.scratch = store, scratch
        self.log_dir = Path(store.root) if store.is_local else scratch / "results"
        self._pairs: dict[str, PairFiles] = {}

    def fetch(self, song: Song) -> PairFiles:
        """The recordings of a song on this machine; its newest run with a checkpoint is copied from the results."""
        dry, wet = (self._recording(song, side) for side in ("dry", "wet"))
        self._pairs[song.id] = PairFiles(dry, wet, song.name)
        if not self.store.is_local:
            self._fetch_run(song)
        return self._pairs[song.id]

    def put(self, song: Song, folder: Path) -> None:
        """Copies a run into a remote store; its record comes last, as a run with a record that ended is complete."""
        if self.store.is_local:
            return
        self._rename(song, folder, to_local=False)
        files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
        for path in sorted(files, key=lambda path: path.name == runs.META):
            self.store.put(path, f"{song.id}/{folder.name}/{path.name}")
        self._rename(song, folder, to_local=True)

    def _recording(self, song: Song, side: str) -> Path:
        place: str = getattr(song, side)
        if not is_url(place):
            return Path(place)
        parent, _, name = place.rpartition("/")
        # The folder of a song is its hash: ids may be longer than a name may be.
        path = self.scratch / "inputs" / sha256(song.id.encode()).hexdigest()[:16] / side / name
        Store(parent).get(name, path)
        return path

    def _fetch_run(self, song: Song) -> None:
        """Copies the newest run with a checkpoint from the results, as if it had been begun on this machine."""
        names = self.store.names(song.id)
        folders = [name.rpartition("/")[0] for name in names if name.endswith(f"/{runs.CHECKPOINT}")]
        numbers = [int(name) for folder in folders if (name := folder.rpartition("/run_")[2]).isdigit()]
        if not numbers:
            return
        folder = f"{song.id}/run_{max(numbers)}"
        for name in names:
            if name.startswith(f"{folder}/"):
                self.store.get(name, self.log_dir / name)
        self._rename(song, self.log_dir / folder, to_local=True)

    def _rename(self, song: Song, folder: Path, *, to_local: bool) -> None:
        """Writes into the record of a run where its recordings are: on this machine, or where the song has them."""
        path, pair = folder / runs.META, self._pairs[song.id]
        if path.exists():
            here = {"input_path": str(pair.dry_path), "target_path": str(pair.wet_path)}
            there = {"input_path": song.dry, "target_path": song.wet}
            record = json.loads(path.read_bytes()) | (here if to_local else there)
            path.write_text(json.dumps(record, indent=1))
