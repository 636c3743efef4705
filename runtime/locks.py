"""Locks of folders, and of songs in them, that only one process at a time may write."""

import json
import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from socket import gethostname

from filelock import FileLock, Timeout

from reknob.runtime.errors import UsageError
from reknob.runtime.files import read_json, write_text

LOCK, HOLDER = "lock", "lock.json"


class FolderLock:
    """An exclusive lock of a folder, held until `release` or until the process ends, even by SIGKILL.

    UsageError where the lock is held already, by another process (named) or by this one, and where the folder cannot
    be written; `instead` is what the message suggests to do. With a `name` the lock is of something in the folder:
    locks of other names are independent of it, and `what` is what the message calls it instead of the folder's path.
    """

    def __init__(self, folder: Path, instead: str, *, name: str = "", what: str = "") -> None:
        self._holder = folder / f".{name}{HOLDER}"
        self._lock = FileLock(folder / f".{name}{LOCK}", timeout=0, thread_local=False)
        try:
            # The kernel releases the lock of a process that ends; the file beside it only serves the message.
            self._lock.acquire()
            holder = {"pid": os.getpid(), "host": gethostname(), "since": datetime.now().isoformat(timespec="seconds")}
            write_text(self._holder, json.dumps(holder))
        except Timeout:
            holder = self._holder_name()
            raise UsageError(f"{what or folder} is being written by {holder}; wait for it, or {instead}") from None
        except OSError as error:
            self.release()
            raise UsageError(f"{folder}: cannot be written ({error.strerror}); {instead}") from error

    def _holder_name(self) -> str:
        try:
            holder = read_json(self._holder)
            pid, host, since = (str(holder[name])[:80] for name in ("pid", "host", "since"))
            return f"process {pid} on {host} since {since}"
        except (UsageError, KeyError):  # it has not written the file yet
            return "another process"

    def release(self) -> None:
        """Releases the lock; does nothing the second time."""
        if self._lock.is_locked:
            # Removed before the release: a process that has opened the removed file opens a new one instead.
            for path in (self._holder, Path(self._lock.lock_file)):
                with suppress(OSError):
                    path.unlink()
            self._lock.release()

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
