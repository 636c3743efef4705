"""The settings of a fit from a command line, with a file of settings below it."""

from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

from reknob.data.audio import AUDIO_SUFFIXES
from reknob.data.pair_files import DATASETS
from reknob.fitting.settings import FitSettings
from reknob.formats.published_config import from_published_settings
from reknob.runtime.errors import UsageError
from reknob.runtime.settings import load_settings
from reknob.runtime.trees import interpolated


def read_settings(argv: list[str], description: str | None = None) -> FitSettings:
    """Checked settings, with the whole chain under `chain`; `description` is the text of `--help`."""
    of_file: dict = {}

    def translate(tree: dict, given: Collection[str]) -> dict:
        tree = _of_file(tree, given)
        if isinstance(tree.get("chain"), dict):
            # Kept apart: the file's chain changes that of `model`, which a flag may choose, and flags change both.
            of_file.update(tree.pop("chain"))
        return tree

    files = [argument for argument in argv[:2] if Path(argument).suffix.lower() in AUDIO_SUFFIXES]
    if len(files) == 2 and not any("=" in file or file.startswith("--") for file in files):
        raise UsageError(f"{files[0]} and {files[1]}: say which is which, as dry={files[0]} wet={files[1]}")
    settings = load_settings(FitSettings, argv, description=description or "", translate=translate)
    settings.read_model(interpolated({"chain": of_file}, asdict(settings))["chain"])
    settings.check()
    return settings


def _of_file(tree: dict, given: Collection[str]) -> dict:
    """Our settings of a configuration file; paths of the command line take the place of the file's."""
    tree = from_published_settings(tree)
    others = {"dry": ("data_dir",), "wet": ("data_dir",), "data_dir": ("dry", "wet")}
    replaced = {name for path in others if path in given for name in others[path]}
    dataset = tree.get("dataset")
    takes = DATASETS[dataset].arguments if isinstance(dataset, str) and dataset in DATASETS else None
    # Paths of the command line may not suit the file's data set: then it is dropped, and inferred from the paths.
    if takes is not None and "dataset" not in given and any(path in given and path not in takes for path in others):
        replaced.add("dataset")
    return {name: value for name, value in tree.items() if name not in replaced}
