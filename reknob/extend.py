"""Registration of effects, losses, encoders and data sets of one's own, without a change to this project.

A module that calls these functions is a plug-in: programs import it by `--plugin my_module` or by an entry point of the
group `reknob.plugins`; in Python, importing it suffices.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

from torch import nn

from reknob.afx.effect import Effect
from reknob.afx.registry import EFFECTS
from reknob.data.pair_files import DATASETS, Dataset, PairFiles, PairListing
from reknob.data.recordings import RECORDINGS, Layout, Song
from reknob.encoders import ENCODERS, Encoder
from reknob.losses import LOSSES
from reknob.runtime.errors import UsageError
from reknob.runtime.plugins import register

PATHS = ("data_dir", "dry", "wet")


def register_effect(key: str, effect: type[Effect]) -> None:
    """Makes chain files find an effect as `{effect: key}`.

    Args:
        key: a name of letters, digits and _.
        effect: a class that is constructed as `effect(sr, **options)`.

    Raises UsageError for a key that is taken, and for what is no class of effects.
    """
    if not (isinstance(effect, type) and issubclass(effect, Effect)):
        raise UsageError(f"effect {key!r}: {str(effect)[:80]} is no subclass of reknob.Effect")
    register(EFFECTS, "effect", key, effect)


def register_loss(key: str, loss: Callable[..., Any]) -> None:
    """Makes a loss available as `loss.name=key` of a fit and, where it compares mono, `--loss key` of a training.

    Args:
        key: a name of letters, digits and _.
        loss: a function `loss(pred, target, **options)` of audio (B, C, T) twice that returns a scalar tensor; or a
            class of such callables, constructed with its options and, where it takes `sr`, the sample rate in Hz. See
            `losses.objective` for what else a fit uses of it.

    Raises UsageError for a key that is taken, and for what cannot be called.
    """
    if not callable(loss):
        raise UsageError(f"loss {key!r}: {str(loss)[:80]} cannot be called")
    register(LOSSES, "loss", key, loss)


def register_encoder(key: str, encoder: type[nn.Module]) -> None:
    """Makes an encoder available as `--encoder=key` of a training.

    Args:
        key: a name of letters, digits and _.
        encoder: a class, constructed with the sample rate in Hz, of modules from (B, 1, N) to (B, out_dim) that have
            `out_dim`. An estimator.pt that it is part of is loaded only where the plug-in is.

    Raises UsageError for a key that is taken, and for what is no class of modules.
    """
    if not (isinstance(encoder, type) and issubclass(encoder, nn.Module)):
        raise UsageError(f"encoder {key!r}: {str(encoder)[:80]} is no subclass of torch.nn.Module")
    # A plug-in's class need not derive from ours.
    register(ENCODERS, "encoder", key, cast(Callable[..., Encoder], encoder))


def register_dataset(
    key: str, find: Callable[..., Iterable[PairFiles | tuple[Path, Path]]], takes: tuple[str, ...] = ("data_dir",)
) -> None:
    """Makes the dry/wet pairs of a data set available as `dataset=key` of a fit.

    Args:
        key: a name of letters, digits and _.
        find: gives the pairs as (dry file, wet file) or as `PairFiles`, from the paths that it takes, by name.
        takes: which of "data_dir", "dry" and "wet" these are.

    Raises UsageError for a key that is taken, and for other paths.
    """
    unknown = sorted(set(takes) - set(PATHS))
    if unknown:
        raise UsageError(f"data set {key!r} takes {', '.join(unknown)}: give some of {', '.join(PATHS)}")

    def listing(**paths: Path) -> PairListing:
        found = find(**paths)
        return found if isinstance(found, PairListing) else PairListing([_pair(each) for each in found], [])

    register(DATASETS, "data set", key, Dataset(listing, takes))


def register_recordings(key: str, find: Callable[[Path], Iterable[Path]], expected: str) -> None:
    """Makes the recordings of a data set available as `--data=key` of a training; they are split by their names.

    Args:
        key: a name of letters, digits and _.
        find: gives the audio files in a folder.
        expected: what such a folder holds, for messages: "audio/*.wav".

    Raises UsageError for a key that is taken.
    """

    def songs(folder: Path) -> list[Song]:
        paths = [Path(path) for path in find(folder)]
        return [Song(path, path.relative_to(folder).with_suffix("").as_posix()) for path in paths]

    register(RECORDINGS, "data set", key, Layout(songs, expected))


def _pair(given: PairFiles | tuple[Path, Path]) -> PairFiles:
    if isinstance(given, PairFiles):
        return given
    dry, wet = (Path(path) for path in given)
    return PairFiles(dry, wet, wet.stem)


__all__ = ["register_dataset", "register_effect", "register_encoder", "register_loss", "register_recordings"]
