"""A folder on a disk or at a URL of fsspec (s3://, gs://, memory://): whole files in, whole files out."""

from reknob.runtime.program import reason

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from reknob.runtime.errors import UsageError
from reknob.runtime.files import user_path, write_bytes

T = TypeVar("T")
#: Stores whose upload becomes visible as a whole; of the others a file is renamed once it is complete.
OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "r2", "memory"}
BLOCK = 1000  # files read at once


def is_url(text: str) -> bool:
    """Whether a text names a place by URL and not by a path."""
    return "://" in text


class Store:
    """A folder, and its files by their paths below it, with `/` between the names.

    Args:
        url: a path, or a URL of fsspec; credentials and addresses are those of the environment.

    Raises UsageError for a URL of an unknown kind, and of one whose package is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url if is_url(url) else os.path.abspath(user_path(url))
        try:
            self.fs, self.root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise UsageError(f"{url}: cannot be opened ({reason(error)})") from error
        self.root = self.root.rstrip("/")
        self.is_local = isinstance(self.fs, LocalFileSystem)
        #: Whether only this process sees its files.
        self.is_private = "memory" in self._protocols

    @property
    def _protocols(self) -> set[str]:
        names = self.fs.protocol
        return {names} if isinstance(names, str) else set(names)

    def path(self, name: str) -> Path:
        """The path of a file of a folder on a disk."""
        assert self.is_local
        return Path(self.root, name)

    def _at(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    def names(self, folder: str = "") -> dict[str, int]:
        """All files below a folder with their sizes in bytes; none where there is no such folder."""
        if self.is_local:
            return self._local_names(folder)
        self.fs.invalidate_cache()
        try:
            found = self.fs.find(self._at(folder), detail=True)
        except FileNotFoundError:
            return {}
        # A key of an object store may be any text: one that leads out of the folder is left alone.
        below = {path.removeprefix(self.root).lstrip("/"): info for path, info in found.items()}
        return {name: info.get("size") or 0 for name, info in below.items() if ".." not in name.split("/")}

    def _local_names(self, folder: str) -> dict[str, int]:
        # fsspec makes a record of many fields for each file.
        names: dict[str, int] = {}
        for place, _, files in os.walk(self._at(folder), followlinks=True):
            below = place.removeprefix(self.root).lstrip("/")
            for file in files:
                with suppress(OSError):  # removed in the meantime
                    names[f"{below}/{file}".lstrip("/")] = os.stat(os.path.join(place, file)).st_size
        return names

    def top_names(self) -> list[str]:
        """The names of the files and folders directly in the folder; none where there is no such folder."""
        self.fs.invalidate_cache()
        try:
            return [path.rstrip("/").rpartition("/")[2] for path in self.fs.ls(self.root, detail=False)]
        except FileNotFoundError:
            return []

    def is_file(self, name: str = "") -> bool:
        """Whether there is a file, and not a folder or nothing."""
        return self.fs.isfile(self._at(name))

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where there is none."""
        try:
            return self.fs.cat_file(self._at(name))
        except FileNotFoundError:
            return None

    def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
        """The contents of the files that exist, by name; of a remote store many at a time."""
        wanted, contents = list(names), {}
        for at in range(0, len(wanted), BLOCK):
            by_path = {self._at(name): name for name in wanted[at : at + BLOCK]}
            found = self.fs.cat(list(by_path), on_error="omit") if by_path else {}
            contents |= {by_path[path]: content for path, content in found.items()}
        return contents

    def write(self, name: str, content: bytes) -> None:
        """Writes a file, so that a reader finds the old content or the new one, whole.

        Over a remote file system without such writes the file is uploaded beside and renamed.
        """
        if self.is_local:
            self.path(name).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(self.path(name), content)
            return
        self._upload(name, lambda path: self.fs.pipe_file(path, content))

    def get(self, name: str, to: Path) -> None:
        """Copies a file to a local path, whose folder is made."""
        to.parent.mkdir(parents=True, exist_ok=True)
        self.fs.get_file(self._at(name), str(to))

    def put(self, path: Path, name: str) -> None:
        """Copies a local file into a remote store, as `write` does."""
        self._upload(name, lambda at: self.fs.put_file(str(path), at))

    def _upload(self, name: str, send: Callable[[str], object]) -> None:
        if self._protocols & OBJECT_STORES:
            send(self._at(name))
            return
        parent, _, last = self._at(name).rpartition("/")
        self.fs.makedirs(parent, exist_ok=True)
        send(f"{parent}/.{last}.part")
        self.fs.mv(f"{parent}/.{last}.part", self._at(name))

    def remove(self, name: str) -> None:
        """Removes a file; nothing happens where there is none."""
        try:
            self.fs.rm_file(self._at(name))
        except FileNotFoundError:
            pass


def reached(url: str, action: Callable[[], T]) -> T:
    """What a first access of a store returns; UsageError with the reason where the store is not reached."""
    try:
        return action()
    except UsageError:
        raise
    except Exception as error:  # the libraries of the stores raise errors of their own kinds
        raise UsageError(f"{url}: cannot be read or written ({reason(error)})") from error
