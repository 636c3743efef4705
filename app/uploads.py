"""Recordings that the browser sends: bounded in size, duration and number, kept under names that the server chooses."""

import asyncio
import math
import re
import secrets
from collections.abc import AsyncIterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from reknob.data.audio import AUDIO_SUFFIXES, read_blocks, read_rate
from reknob.runtime.errors import UsageError

READ_BLOCK = 2**18  # frames
SHOWN_CHARACTERS = 80  # of a name


@dataclass(frozen=True)
class Limits:
    """What may be uploaded: bytes and seconds of a recording, and recordings until the server ends."""

    most_bytes: int = 300_000_000
    most_seconds: float = 900.0
    most_files: int = 40


@dataclass(frozen=True)
class Upload:
    """A recording on the disk of the server; `name` is the browser's, to be shown and for nothing else."""

    key: str
    name: str
    path: Path = field(repr=False)
    seconds: float
    sr: int
    channels: int

    def record(self) -> dict[str, Any]:
        """What the browser is told: everything but the path."""
        return {name: value for name, value in asdict(self).items() if name != "path"}


class Uploads:
    """The recordings of this server.

    Args:
        folder: where they are written; it is created with the first one.
        limits: what is refused.
    """

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self.folder, self.limits = folder, limits or Limits()
        self._held: dict[str, Upload] = {}
        self._count = 0  # received, or being received

    def add_file(self, key: str, name: str, path: Path) -> None:
        """Adds a recording that is on the disk already, as one that comes with the project."""
        self._held[key] = _described(key, name, path, Limits(most_seconds=math.inf))

    def get(self, key: object) -> Upload:
        """The recording of a key; UsageError for another key."""
        if not isinstance(key, str) or key not in self._held:
            raise UsageError("there is no such recording here: drop it again")
        return self._held[key]

    def all(self) -> list[Upload]:
        """The recordings, the oldest first."""
        return list(self._held.values())

    async def receive(self, name: str, content: AsyncIterable[bytes]) -> Upload:
        """Writes a recording under a new name, and decodes it once to know that it is one and how long it is.

        The suffix is one of AUDIO_SUFFIXES; nothing else of `name` has to do with the path. UsageError for more bytes,
        seconds or recordings than the limits, for an unknown suffix, and for what is no audio; nothing is left then.
        """
        limits, suffix = self.limits, Path(name).suffix.lower()
        if suffix not in AUDIO_SUFFIXES:
            raise UsageError(f"{shown(name)}: no suffix of an audio file; known: {', '.join(AUDIO_SUFFIXES)}")
        if self._count >= limits.most_files:
            raise UsageError(f"{limits.most_files} recordings are here already; restart reknob app for others")
        self._count += 1
        key = secrets.token_hex(8)
        path = self.folder / f"{key}{suffix}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            await _write(path, content, limits.most_bytes, shown(name))
            upload = await asyncio.to_thread(_described, key, shown(name), path, limits)
        except BaseException:
            self._count -= 1
            path.unlink(missing_ok=True)
            raise
        self._held[key] = upload
        return upload


def shown(name: str) -> str:
    """A browser's name of a file as it is shown: its last part, printable characters only."""
    last = re.split(r"[/\\]", name)[-1]
    return "".join(c for c in last if c.isprintable()).strip()[-SHOWN_CHARACTERS:] or "recording"


async def _write(path: Path, content: AsyncIterable[bytes], most: int, name: str) -> None:
    """Writes what arrives; UsageError as soon as it is more than `most` bytes."""
    size = 0
    with path.open("xb") as file:
        async for part in content:
            size += len(part)
            if size > most:
                raise UsageError(f"{name}: has more than {most / 1e6:.0f} MB")
            file.write(part)


def _described(key: str, name: str, path: Path, limits: Limits) -> Upload:
    """A recording as an upload, decoded up to the longest duration, as its header may be wrong."""
    try:
        sr, frames, channels = read_rate(path), 0, 0
        for block in read_blocks(path, READ_BLOCK):
            channels, frames = len(block), frames + block.shape[-1]
            if frames > limits.most_seconds * sr:
                raise UsageError(f"{path} is longer than {limits.most_seconds / 60:g} minutes: cut it")
    except UsageError as error:
        raise UsageError(str(error).replace(str(path), name)) from None
    return Upload(key, name, path, frames / sr, sr, channels)
