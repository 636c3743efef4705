"""Atomic writes, and reads of untrusted files: no code is executed, no read blocks, sizes are bounded."""

import ctypes
import errno
import io
import json
import math
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch

from reknob.runtime.errors import UsageError

# The largest text and array files that are read: those of a preset set of 50 000 tracks have 20 and 31 MB.
TEXT_BYTES, ARRAY_BYTES = 1 << 25, 1 << 28
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux's fcntl.h and fs.h


#: What the project comes with lies below: the root of a clone, the package in an installation.
SHIPPED = Path(__file__).resolve().parent.parent


def input_path(text: str | Path) -> Path:
    """A path to read from, as `user_path`; where nothing is there, what the project ships under that relative path.

    So `presets/own` and `checkpoints/peq.pt` name the same in a clone, in an installation and in any folder.
    """
    path = user_path(text)
    shipped = SHIPPED / path
    return shipped if not path.is_absolute() and not path.exists() and shipped.exists() else path


def user_path(text: str | Path) -> Path:
    """A path as a user writes it, with `~` and `~name` expanded; the file need not exist.

    UsageError for text that cannot be a path, and for a pipe, a socket or a device, as reading one may never end.
    """
    try:
        path = Path(text).expanduser()
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UsageError(f"{path}: is a pipe, a socket or a device; give a file")
    except FileNotFoundError:
        pass
    except RuntimeError:
        raise UsageError(f"{text}: there is no such home folder; give the path in full") from None
    except UsageError:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        # These two are left to whatever opens the file, whose message is more specific.
        if not isinstance(error, (PermissionError, NotADirectoryError)):
            raise UsageError(f"{str(text)[:80]!r}: no path that a file can have ({reason})") from None
    return path


def absolute(path: str | Path) -> str:
    """An absolute path without `..`, as written into records, which are also read from other working folders."""
    return os.path.abspath(user_path(path))


def printable(name: str) -> str:
    """A file's name as valid Unicode text: bytes that are not UTF-8 become escapes, as `\\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def same_file(one: str | Path, other: str | Path) -> bool:
    """Whether two paths resolve to the same file, which need not exist."""
    return os.path.realpath(absolute(one)) == os.path.realpath(absolute(other))


def check_output(
    path: str | Path,
    inputs: Iterable[str | Path | None] = (),
    *,
    overwrite: bool = True,
    new_folder: bool = False,
) -> Path:
    """The path of an output file, checked before the work whose result it receives.

    Args:
        inputs: files and folders that the program reads; None stands for one that was not given.
        overwrite: whether an existing file may be replaced.
        new_folder: whether the program creates the output's folder.

    Raises UsageError where the path is a folder, an input or inside one (links resolved), exists without `overwrite`,
    or cannot be written.
    """
    path = user_path(path)
    if not path.name:
        raise UsageError(f"{path}: is a folder; give a file to write")
    folder = path.parent
    if not new_folder and not folder.exists():
        raise UsageError(f"{path}: there is no folder {folder}; choose another")
    check_output_folder(folder, path)
    for given in inputs:
        if given is not None and _replaces(path, user_path(given)):
            raise UsageError(f"{path}: is an input, {given}, which would be lost; give another name")
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; give a file to write")
    if path.exists() and not overwrite:
        raise UsageError(f"{path}: exists; give another name, or --overwrite to replace it")
    return path


def check_output_folder(folder: str | Path, named: str | Path | None = None) -> Path:
    """The path of a folder to write into, which need not exist yet; checked before the work that it is for.

    Raises UsageError, which names `named` or else the folder, where it or a folder above it is a file or read-only.
    """
    path = closest = user_path(folder)
    # The closest folder that exists already is the one whose permissions count.
    while not closest.exists() and closest != closest.parent:
        closest = closest.parent
    if not closest.is_dir():
        raise UsageError(f"{named or path}: {closest} is no folder; choose another")
    if not os.access(closest, os.W_OK | os.X_OK):
        raise UsageError(f"{named or path}: cannot be written: {closest} is read-only; choose another folder")
    return path


def _replaces(path: Path, given: Path) -> bool:
    """Whether writing `path` replaces the file `given`, or a file below the folder `given`."""
    if not path.exists():
        return path.resolve() == given.resolve()
    if given.is_dir():
        return given.resolve() in path.resolve().parents
    return given.exists() and path.samefile(given)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path in the folder of `path`, renamed to `path` when the block ends, removed when it raises.

    The content is flushed to disk before the rename, so that after a power failure `path` holds the old or the new
    content, complete. An OSError names `path`.
    """
    path = Path(path)
    temporary, name = None, ""
    try:
        # The stem is cut: with prefix and suffix a long name would exceed the file system's limit.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:50]}.", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        _sync(temporary)
        # mkstemp creates files that only their owner can read.
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        # Errors of other files, raised in the block, keep the name of their file.
        is_of_it = temporary is None or error.filename is None or str(error.filename) in (name, str(temporary))
        if error.errno is None or not is_of_it:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
    # Makes the rename durable; where the folder cannot be opened, the file is in place all the same.
    with suppress(OSError):
        _sync(path.parent)


def remove_temporary(folder: Path) -> None:
    """Removes what `atomic_path` leaves in a folder where its process is killed; no other process may write there."""
    for path in folder.glob(".*.????????.*"):
        with suppress(OSError):
            path.unlink()


@contextmanager
def atomic_folder(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder in the parent of `path`, renamed to `path` when the block ends, removed when it raises.

    With `overwrite` an existing folder is replaced with all it contains. Without, OSError where it is not empty.
    """
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name[:50]}."))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        if overwrite and path.is_dir():
            _exchange(temporary, path)
        else:
            os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    with suppress(OSError):
        _sync(path.parent)


def _exchange(new: Path, old: Path) -> None:
    """Swaps two folders: atomically on Linux, elsewhere by three renames."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename and rename(AT_FDCWD, os.fsencode(new), AT_FDCWD, os.fsencode(old), RENAME_EXCHANGE) == 0:
        return
    aside = old.with_name(f"{new.name}.old")
    os.rename(old, aside)
    try:
        os.rename(new, old)
    except OSError:
        os.rename(aside, old)
        raise
    os.rename(aside, new)


def _umask() -> int:
    # The only way to read the umask is to set it.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    """Flushes a file, or the entries of a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # file systems without fsync
            raise
    finally:
        os.close(handle)


def write_bytes(path: str | Path, content: bytes | memoryview) -> None:
    """Writes a file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, text: str) -> None:
    """Writes text as UTF-8; lone surrogates, from file names that are not UTF-8, as escapes of JSON and YAML."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_tensors(path: str | Path, content: dict) -> None:
    """Writes tensors and containers by name, in the format of torch.save."""
    # Through a buffer: on a full disk torch and numpy raise errors of their own kinds instead of OSError.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getbuffer())


def write_array(path: str | Path, array: np.ndarray) -> None:
    """Writes a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getbuffer())


def write_arrays(path: str | Path, **arrays: np.ndarray) -> None:
    """Writes arrays by name as a .npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_bytes(path, buffer.getbuffer())


def read_bytes(path: str | Path, most: int = TEXT_BYTES) -> bytes:
    """The content of a regular file of at most `most` bytes; UsageError for other kinds, larger or unreadable files."""
    try:
        size = _check_regular(path, most)
        with open(path, "rb") as file:
            return file.read(size)  # bounded also where another process appends to the file
    except (OSError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{path}: cannot be read ({reason})") from None


def _check_regular(path: str | Path, most: float = math.inf) -> int:
    """The size of a regular file in bytes; UsageError for other kinds (reading one may block) and larger files."""
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise UsageError(f"{path}: cannot be read (Is a directory)")
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{path}: cannot be read (a pipe or a device, not a file)")
    if status.st_size > most:
        raise UsageError(f"{path}: has {status.st_size / 1e6:.0f} MB; a file of its kind has at most {most / 1e6:.0f}")
    return status.st_size


def read_tensors(path: str | Path) -> dict:
    """The dict of a file of torch.save, on the CPU; with `weights_only`, so that unpickling executes no code.

    UsageError naming the file when it is missing, damaged, or holds anything but tensors, numbers and containers.
    """
    try:
        check_tensors_fit(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except UsageError:
        raise
    except Exception as error:  # torch, pickle and zipfile raise errors of many kinds for damaged files
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UsageError(f"{path}: damaged, or not a file of tensors alone ({reason})") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path}: holds a {type(content).__name__}, not tensors by name")
    return content


def check_tensors_fit(path: str | Path) -> None:
    """Raises UsageError for a file of torch.save that would take more memory than it has bytes.

    torch also reads compressed archives, which it never writes and in which 100 KB may become 100 MB; and the format
    before its version 1.6, in which a header says how much memory to take.
    """
    size = _check_regular(path)
    if not zipfile.is_zipfile(path):
        raise UsageError(f"{path}: damaged, or not a file of tensors alone (not as torch has saved it since 1.6)")
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > size:
            raise UsageError(f"{path}: not a file of tensors alone (it is compressed; torch saves plain archives)")


def read_json(path: str | Path, most: int = TEXT_BYTES) -> dict:
    """The object of a JSON file of at most `most` bytes; UsageError naming the file when it is missing, damaged or
    holds no object."""
    text = read_bytes(path, most)
    try:
        content = json.loads(text.decode("utf-8-sig"))
    except RecursionError:
        raise UsageError(f"{path}: not a JSON file of ours (nested too deeply)") from None
    except ValueError as error:
        raise UsageError(f"{path}: not a JSON file ({error})") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path}: holds a {type(content).__name__}, not names and values")
    return content


def read_array(path: str | Path) -> np.ndarray:
    """The array of numbers or booleans in a .npy file; UsageError naming the file when it holds anything else."""
    return _array(read_bytes(path, ARRAY_BYTES), path)


def read_arrays(path: str | Path, names: Sequence[str]) -> list[np.ndarray]:
    """The named arrays of a .npz file, each under the conditions of `read_array`."""
    content = read_bytes(path, ARRAY_BYTES)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [archive.getinfo(f"{name}.npy") for name in names]
            if sum(member.file_size for member in members) > ARRAY_BYTES:
                raise UsageError(f"{path}: its arrays take more than {ARRAY_BYTES / 1e6:.0f} MB")
            return [_array(archive.read(member), path) for member in members]
    except UsageError:
        raise
    except KeyError:
        raise UsageError(f"{path}: lacks an array; expected {', '.join(names)}") from None
    except Exception as error:  # zipfile and zlib raise errors of many kinds for damaged archives
        raise UsageError(f"{path}: not an archive of arrays ({str(error)[:120]})") from error


def _array(content: bytes, path: str | Path) -> np.ndarray:
    """The array that the content of a .npy file encodes; never unpickles."""
    file = io.BytesIO(content)
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        shape, _, dtype = headers[np.lib.format.read_magic(file)](file)
        if dtype.kind not in "biuf":
            raise UsageError(f"{path}: not an array of numbers (of {dtype})")
        # numpy allocates what the header claims before it reads.
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > len(content) - file.tell():
            raise UsageError(f"{path}: not an array of numbers (cut off: {shape} do not fit into the file)")
        return np.load(io.BytesIO(content), allow_pickle=False)
    except UsageError:
        raise
    except Exception as error:  # numpy parses the header as a Python literal, and passes on that parser's errors
        raise UsageError(f"{path}: not an array of numbers ({str(error)[:120]})") from error
