"""Folders that one process at a time writes."""

import json
import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from socket import gethostname

from filelock import FileLock, Timeout

from reknob.runtime.errors import UsageError
from reknob.runtime.files import read_json, write_text

LOCK, HOLDER = ".lock", ".lock.json"


class FolderLock:
    """A folder that only its holder writes, until `release` or the end of the process, however that comes.

    UsageError, with what to do `instead`, where another process, or another part of this one, holds it, naming that,
    and where the folder cannot be written.
    """

    def __init__(self, folder: Path, instead: str):
        self._holder = folder / HOLDER
        self._lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
        try:
            # The system itself takes it back when a process ends; who has it stands in a file beside it.
            self._lock.acquire()
            holder = {"pid": os.getpid(), "host": gethostname(), "since": datetime.now().isoformat(timespec="seconds")}
            write_text(self._holder, json.dumps(holder))
        except Timeout:
            raise UsageError(f"{folder} is being written by {self._who()}; wait for it, or {instead}") from None
        except OSError as error:
            self.release()
            raise UsageError(f"{folder}: cannot be written ({error.strerror}); {instead}") from error

    def _who(self) -> str:
        try:
            holder = read_json(self._holder)
            return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
        except (UsageError, KeyError):  # it has only just begun
            return "another process"

    def release(self) -> None:
        """Lets others write the folder; does nothing the second time."""
        if self._lock.is_locked:
            # Removed before it is released: who opened the file that is removed opens the next one instead.
            for path in (self._holder, Path(self._lock.lock_file)):
                with suppress(OSError):
                    path.unlink()
            self._lock.release()

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
