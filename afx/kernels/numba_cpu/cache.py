"""Compiled loops on disk: one file for each, valid for these sources on this machine, compiled by one process alone.

numba's own cache compares the file of the outermost function only, so that a changed helper of another file goes
unseen; it stops at a damaged file, and refuses to compile where it finds no folder to write to.
"""

import hashlib
import logging
import os
import pickle
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from filelock import FileLock
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.compiler_lock import global_compiler_lock
from numba.core.dispatcher import Dispatcher
from numba.core.registry import cpu_target
from numba.core.serialize import dumps

NAME = "reknob-kernels"
UNUSED_DAYS = 30  # after which the loops of other sources, versions or processors are deleted
LONGEST_WAIT = 120.0  # s, for another process that compiles the same loop; one that is suspended may keep its lock
DIGEST = hashlib.sha256().digest_size

log = logging.getLogger(__name__)


def kernel(**options: Any) -> Callable[[Callable], Callable]:
    """Decorate a function that numba compiles when it is first called, and that later processes load from disk.

    Options are those of numba.njit but `cache`.
    """

    def decorate(function: Callable) -> Callable:
        dispatcher = numba.njit(**options)(function)
        if isinstance(dispatcher, Dispatcher):  # and not, under NUMBA_DISABLE_JIT, the function itself
            dispatcher._cache = LoopCache(function)
            dispatcher.compile = dispatcher._cache.one_at_a_time(dispatcher.compile)
        return dispatcher

    return decorate


class LoopCache(NullCache):
    """The compiled forms of one function on disk: each a file, led by its digest, that appears whole or not at all.

    A file that is missing or damaged is made again; a folder that cannot be written to any more costs a warning.
    """

    def __init__(self, function: Callable):
        self.name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"

    @property
    def cache_path(self) -> str | None:
        return None if folder() is None else str(folder())

    def load_overload(self, sig: object, target_context: Any) -> CompileResult | None:
        """The compiled form for argument types, or None where it has to be compiled."""
        target_context.refresh()
        if folder() is None:
            return None
        try:
            content = self._path(sig).read_bytes()
        except OSError:
            return None
        if hashlib.sha256(content[DIGEST:]).digest() != content[:DIGEST]:
            log.warning("%s is damaged: compiling it anew", self._path(sig))
            return None
        return CompileResult._rebuild(target_context, *pickle.loads(content[DIGEST:]))

    def save_overload(self, sig: object, data: CompileResult) -> None:
        """Keep a compiled form, unless it holds addresses of this process."""
        if folder() is None or data.library.has_dynamic_globals:
            return
        payload = dumps(data._reduce())
        try:
            _write(self._path(sig), hashlib.sha256(payload).digest() + payload)
        except OSError as error:
            _warn_once(f"compiled loops cannot be kept in {folder()} ({error.strerror}): later runs compile them again")

    def one_at_a_time(self, compile: Callable) -> Callable:
        """`compile(sig)`, for which other processes wait, so that they find what the first one made."""

        def locked(sig: object) -> Any:
            # numba's lock first: another thread may hold it while it waits for the lock of the file.
            with global_compiler_lock, self._lock():
                return compile(sig)

        return locked

    def _lock(self) -> Any:
        if folder() is None:
            return nullcontext()
        lock = FileLock(folder() / f"{self.name}.lock", timeout=LONGEST_WAIT)
        try:
            return lock.acquire()
        except (OSError, NotImplementedError):  # too long a wait, a folder that is gone, or no locks on this disk
            return nullcontext()

    def _path(self, sig: object) -> Path:
        types = hashlib.sha256(repr(sig).encode()).hexdigest()[:16]
        return folder() / f"{self.name}-{types}.nbc"


@cache
def folder() -> Path | None:
    """The folder of the loops compiled from these sources for this machine, which can be written to; None without one.

    It lies where NUMBA_CACHE_DIR says, else in `__pycache__` beside this file, in the user's cache folder, or in the
    folder for temporary files: the first that can be used. Whether that is not the first is logged, once.
    """
    name, refused = key(), []
    for parent in _parents():
        try:
            usable = _open(parent / NAME, name)
        except OSError as error:
            refused.append(f"{parent} ({error.strerror})")
            continue
        if refused:
            log.info("compiled loops are kept in %s, as these cannot be used: %s", usable, ", ".join(refused))
        return usable
    log.warning(
        "each run compiles its loops anew, about a minute, as no folder can hold them: %s; NUMBA_CACHE_DIR sets one",
        ", ".join(refused),
    )
    return None


@cache
def key() -> str:
    """A name for what compiled loops depend on: all sources in this folder, the compiler, Python and the processor."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        source = path.read_bytes()
        digest.update(f"{path.name} {len(source)}\n".encode() + source)
    versions = numba.__version__, llvmlite.__version__, sys.implementation.cache_tag, getattr(sys, "abiflags", "")
    digest.update(repr((versions, cpu_target.target_context.codegen().magic_tuple())).encode())
    return digest.hexdigest()[:16]


def _parents() -> Iterator[Path]:
    """Where the folder may lie, the best first."""
    if numba.config.CACHE_DIR:
        yield Path(numba.config.CACHE_DIR).absolute()
    yield Path(__file__).parent / "__pycache__"
    with suppress(RuntimeError):  # no home
        home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        if home.is_absolute():
            yield home
    with suppress(FileNotFoundError):  # no folder for temporary files
        yield _private(Path(tempfile.gettempdir()))


def _private(shared: Path) -> Path:
    """This user's own folder in one that all users can write to; a place that cannot be used where it is not safe.

    Others could otherwise leave files there, and what is loaded is run.
    """
    own = shared / f"reknob-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    with suppress(OSError):
        own.mkdir(mode=0o700)
    with suppress(OSError):
        status = own.lstat()
        safe = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o022
        if not hasattr(os, "getuid") or (safe and status.st_uid == os.getuid()):
            return own
    return Path(os.devnull) / own.name


def _open(parent: Path, name: str) -> Path:
    """The folder `name` in `parent`, made where missing; OSError where nothing can be written to it."""
    own = parent / name
    is_new = not own.exists()
    own.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=own).close()
    with suppress(OSError):
        os.utime(own)
    if is_new:
        _delete_unused(parent)
    return own


def _delete_unused(parent: Path) -> None:
    """Delete the folders of other keys that no process has opened for long."""
    oldest = time.time() - UNUSED_DAYS * 24 * 3600
    with suppress(OSError):
        for path in parent.iterdir():
            if re.fullmatch("[0-9a-f]{16}", path.name) and path.stat().st_mtime < oldest:
                shutil.rmtree(path, ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            os.unlink(temporary)


@cache
def _warn_once(text: str) -> None:
    log.warning(text)
