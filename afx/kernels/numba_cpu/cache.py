"""Cache of compiled loops on disk: one file per loop, valid for these sources on this machine.

It replaces numba's own cache, which compares only the source file of the outermost function, so that a change of a
helper in another file is not detected; which raises at a damaged file; and which does not compile without a writable
folder. Of several processes that need a loop, one compiles it while the others wait for its file. The one that compiles
it then computes the same as those that load it (see SelfContainedLibrary).
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
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any, cast

import llvmlite
import numba
from filelock import FileLock
from llvmlite.binding import Linkage, ModuleRef
from numba.core.caching import NullCache
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler, CompileResult
from numba.core.compiler_lock import global_compiler_lock
from numba.core.dispatcher import Dispatcher
from numba.core.registry import cpu_target
from numba.core.serialize import dumps

from reknob.afx.kernels.numba_cpu import config

NAME = "reknob-kernels"
UNUSED_DAYS = 30  # after which loops of other sources, versions or processors are deleted
LONGEST_WAIT = 120.0  # s, for another process that compiles the same loop; a suspended process keeps its lock
DIGEST = hashlib.sha256().digest_size

log = logging.getLogger(__name__)


def kernel(**options: Any) -> Callable[[Callable], Callable]:
    """Return a decorator: numba compiles the function at its first call, and later processes load it from disk.

    Options are those of numba.njit except `cache`.
    """

    def decorate(function: Callable) -> Callable:
        dispatcher: Any = numba.njit(pipeline_class=LoopCompiler, **options)(function)
        if isinstance(dispatcher, Dispatcher):  # under NUMBA_DISABLE_JIT it is the function itself
            dispatcher = cast(Any, dispatcher)  # numba's hints omit its cache
            dispatcher._cache = LoopCache(function)
            dispatcher.compile = dispatcher._cache.one_at_a_time(dispatcher.compile)
        return dispatcher

    return decorate


class LoopCompiler(Compiler):
    """numba's compiler, whose result is a SelfContainedLibrary."""

    def define_pipelines(self) -> list:
        codegen = self.state.targetctx.codegen()
        self.state.library = SelfContainedLibrary(codegen, self.state.func_id.func_qualname)
        self.state.library.enable_object_caching()
        return super().define_pipelines()


class SelfContainedLibrary(JITCodeLibrary):
    """Machine code of a loop that calls its own copies of its helpers.

    numba exports these copies as weak symbols: a process that has compiled a helper would call that one instead. It was
    optimised by itself, without its caller, so that its fused products and therefore its results round differently.
    """

    def _optimize_final_module(self) -> None:
        super()._optimize_final_module()
        weak = Linkage.linkonce_odr, Linkage.weak_odr
        self._helpers = {f.name: f.linkage for f in self._final_module.functions if f.linkage in weak}
        for name in self._helpers:
            self._final_module.get_function(name).linkage = Linkage.internal

    def _get_module_for_linking(self) -> ModuleRef:
        module = super()._get_module_for_linking()
        # Weak again for loops that link this one: copies of a helper by several routes become one there.
        for name, linkage in self._helpers.items():
            module.get_function(name).linkage = linkage
        return module


class LoopCache(NullCache):
    """The compiled forms of one function on disk, one file per signature, which begins with the digest of the rest.

    Files are written atomically. A missing or damaged file is compiled and written again; where the folder is no longer
    writable, a warning is logged and the loop is compiled in every run.
    """

    def __init__(self, function: Callable) -> None:
        self.name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"

    @property
    def cache_path(self) -> str | None:
        parent = folder()
        return None if parent is None else str(parent)

    def load_overload(self, sig: object, target_context: Any) -> CompileResult | None:
        """Return the compiled form for a signature, or None where it has to be compiled."""
        target_context.refresh()
        path = self._path(sig)
        if path is None:
            return None
        try:
            content = path.read_bytes()
        except OSError:
            return None
        if hashlib.sha256(content[DIGEST:]).digest() != content[:DIGEST]:
            log.warning("%s is damaged: compiling it anew", path)
            return None
        # Only this user, or who may write to the package itself, can write to the folder (see _private).
        return CompileResult._rebuild(target_context, *pickle.loads(content[DIGEST:]))  # noqa: S301

    def save_overload(self, sig: object, data: CompileResult) -> None:
        """Write a compiled form to disk, unless it contains addresses of this process."""
        path = self._path(sig)
        if path is None or data.library.has_dynamic_globals:
            return
        payload = dumps(data._reduce())
        try:
            _write(path, hashlib.sha256(payload).digest() + payload)
        except OSError as error:
            reason = f"{path.parent} ({error.strerror})"
            _warn_once(f"compiled loops cannot be kept in {reason}: later runs compile them again")

    def one_at_a_time(self, compile: Callable) -> Callable:
        """Return `compile(sig)` under a lock between processes: those that wait then load what the first one wrote."""

        def locked(sig: object) -> object:
            # numba's lock first: another thread may hold it while it waits for the lock of the file.
            with global_compiler_lock, self._lock():
                return compile(sig)

        return locked

    def _lock(self) -> AbstractContextManager[object]:
        """The acquired lock of this function between processes, or a context that does nothing without one."""
        parent = folder()
        if parent is None:
            return nullcontext()
        lock = FileLock(parent / f"{self.name}.lock", timeout=LONGEST_WAIT)
        try:
            return lock.acquire()
        except (OSError, NotImplementedError):  # a timeout, a deleted folder, or a file system without locks
            return nullcontext()

    def _path(self, sig: object) -> Path | None:
        """The file of the compiled form for a signature; None where there is no folder."""
        parent = folder()
        types = hashlib.sha256(repr(sig).encode()).hexdigest()[:16]
        return None if parent is None else parent / f"{self.name}-{types}.nbc"


@cache
def folder() -> Path | None:
    """The writable folder of the loops compiled from these sources for this machine; None without one.

    Its parent is the first usable one of: NUMBA_CACHE_DIR, `__pycache__` beside this file, the user's cache folder, the
    folder for temporary files. Where that is not the first, the choice is logged once.
    """
    name, refused = key(), []
    for parent in _parents():
        is_new = not (parent / NAME / name).exists()
        try:
            usable = _open(parent / NAME, name)
        except OSError as error:
            refused.append(f"{parent} ({error.strerror})")
            continue
        # Once, not in every run that finds its loops there.
        if refused and is_new:
            log.info("compiled loops are kept in %s, as these cannot be used: %s", usable, ", ".join(refused))
        return usable
    log.warning(
        "each run compiles its loops anew, about a minute, as no folder can hold them: %s; NUMBA_CACHE_DIR sets one",
        ", ".join(refused),
    )
    return None


@cache
def key() -> str:
    """Digest of what compiled loops depend on: all sources in this folder, the compiler, Python and the processor."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        source = path.read_bytes()
        digest.update(f"{path.name} {len(source)}\n".encode() + source)
    versions = numba.__version__, llvmlite.__version__, sys.implementation.cache_tag, getattr(sys, "abiflags", "")
    context: Any = cpu_target.target_context  # numba's hints show the descriptor instead of the context
    digest.update(repr((versions, context.codegen().magic_tuple())).encode())
    return digest.hexdigest()[:16]


def _parents() -> Iterator[Path]:
    """Possible parents of the folder, in order of preference."""
    if config.CACHE_DIR:
        yield Path(config.CACHE_DIR).absolute()
    yield Path(__file__).parent / "__pycache__"
    with suppress(RuntimeError):  # no home
        home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        if home.is_absolute():
            yield home
    with suppress(FileNotFoundError):  # no folder for temporary files
        yield _private(Path(tempfile.gettempdir()))


def _private(shared: Path) -> Path:
    """This user's own folder inside one that all users can write to, or an unusable path where it is not safe.

    It is safe if it is a folder of this user that nobody else can write to: cached loops are code that is executed.
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
    """Create the folder `name` in `parent` where it is missing and return it; OSError where it is not writable."""
    opened = parent / name
    is_new = not opened.exists()
    opened.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=opened).close()
    with suppress(OSError):
        os.utime(opened)  # marks the folder as used, for _delete_unused
    if is_new:
        _delete_unused(parent)
    return opened


def _delete_unused(parent: Path) -> None:
    """Delete the folders of other keys that no process has opened for UNUSED_DAYS."""
    oldest = time.time() - UNUSED_DAYS * 24 * 3600
    with suppress(OSError):
        for path in parent.iterdir():
            if re.fullmatch("[0-9a-f]{16}", path.name) and path.stat().st_mtime < oldest:
                shutil.rmtree(path, ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    """Write a file atomically: no reader sees a part of it, and a crash leaves the old one."""
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
