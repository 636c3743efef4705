"""Files that are whole at every instant, and reading anyone's files: no code runs, nothing waits, sizes are bounded."""

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

# The most that is read of a file of a kind: a preset set of 50 000 tracks has 20 and 31 MB.
TEXT_BYTES, ARRAY_BYTES = 1 << 25, 1 << 28
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux's fcntl.h and fs.h


def user_path(text: str | Path) -> Path:
    """A path as a user gives it, `~` and `~name` expanded; UsageError where no file or folder can have it.

    What is no file either is refused: a device or a pipe may never end.
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
        if not isinstance(error, (PermissionError, NotADirectoryError)):
            raise UsageError(f"{str(text)[:80]!r}: no path that a file can have ({reason})") from None
    return path


def absolute(path: str | Path) -> str:
    """A path from the root on, without `..`: as records keep it, as they are read in other folders too."""
    return os.path.abspath(user_path(path))


def printable(name: str) -> str:
    """A file's name as text that everything can print and write: what of it is no UTF-8 appears as `\\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def same_file(one: str | Path, other: str | Path) -> bool:
    """Whether two paths name one file, whatever their spelling; it need not exist."""
    return os.path.realpath(absolute(one)) == os.path.realpath(absolute(other))


def check_output(
    path: str | Path,
    inputs: Iterable[str | Path | None] = (),
    *,
    overwrite: bool = True,
    new_folder: bool = False,
) -> Path:
    """A file that a program is to write, as its user gives it, checked before the work that it is to hold.

    Args:
        inputs: files and folders that the program reads; None stands for one that was not given.
        overwrite: whether it may take the place of a file.
        new_folder: whether its folder is made where there is none.

    Raises UsageError where it is a folder or (under any name) an input, exists, or cannot be written.
    """
    path = user_path(path)
    if not path.name:
        raise UsageError(f"{path}: is a folder; give a file to write")
    folder = path.parent
    while new_folder and not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        wrong = f"{folder} is no folder" if folder.exists() else f"there is no folder {folder}"
        raise UsageError(f"{path}: {wrong}; choose another")
    for given in inputs:
        if given is not None and _is_of(path, user_path(given)):
            raise UsageError(f"{path}: is an input, {given}, which would be lost; give another name")
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; give a file to write")
    if path.exists() and not overwrite:
        raise UsageError(f"{path}: exists; give another name, or --overwrite to replace it")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{path}: cannot be written: {folder} is read-only; choose another folder")
    return path


def _is_of(path: Path, given: Path) -> bool:
    """Whether writing a path replaces a file, or one in a folder."""
    if not path.exists():
        return path.resolve() == given.resolve()
    if given.is_dir():
        return given.resolve() in path.resolve().parents
    return given.exists() and path.samefile(given)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends, and vanishes when the block fails.

    What is in place survives a power cut as well. An OSError names `path`.
    """
    path = Path(path)
    temporary = None
    try:
        # The stem is cut, as its name may have the length that the file system takes and no more.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:50]}.", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        _sync(temporary)
        # mkstemp makes files that only their owner can read.
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or not (temporary is None or error.filename is None or str(error.filename) == name):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
    # The file is in place, also where its folder may not be opened.
    with suppress(OSError):
        _sync(path.parent)


@contextmanager
def atomic_folder(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place when the block ends, and vanishes when the block fails.

    With `overwrite` an older folder is replaced as a whole; without, only an empty one is, and OSError is raised.
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
    """Swaps two folders: at once on Linux, elsewhere in three renames."""
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
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    """Brings a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # a file system that has no such call
            raise
    finally:
        os.close(handle)


def write_bytes(path: str | Path, content: bytes | memoryview) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, text: str) -> None:
    """Text as UTF-8. What that lacks, bytes of a file name that is not UTF-8, becomes an escape of JSON and YAML."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_tensors(path: str | Path, content: dict) -> None:
    """A file of torch.save."""
    # torch and numpy, writing themselves, report a full disk as an error of their own.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getbuffer())


def write_array(path: str | Path, array: np.ndarray) -> None:
    """A .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getbuffer())


def write_arrays(path: str | Path, **arrays: np.ndarray) -> None:
    """A .npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_bytes(path, buffer.getbuffer())


def read_bytes(path: str | Path, most: int = TEXT_BYTES) -> bytes:
    """A regular file of at most `most` bytes; UsageError for a pipe, a device, a longer file and what is unreadable."""
    try:
        size = _check_regular(path, most)
        with open(path, "rb") as file:
            return file.read(size)  # of a file that grows, no more than was checked
    except (OSError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{path}: cannot be read ({reason})") from None


def _check_regular(path: str | Path, most: float = math.inf) -> int:
    """The bytes of a regular file; UsageError for anything else, as to read a pipe or a device would not end."""
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise UsageError(f"{path}: cannot be read (Is a directory)")
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{path}: cannot be read (a pipe or a device, not a file)")
    if status.st_size > most:
        raise UsageError(f"{path}: has {status.st_size / 1e6:.0f} MB; a file of its kind has at most {most / 1e6:.0f}")
    return status.st_size


def read_tensors(path: str | Path) -> dict:
    """Tensors, numbers and containers by name of a file of torch.save, and nothing that could run.

    Raises UsageError naming the file when it is missing, damaged, or holds anything else.
    """
    try:
        _check_regular(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except UsageError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UsageError(f"{path}: damaged, or not a file of tensors alone ({reason})") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path}: holds a {type(content).__name__}, not tensors by name")
    return content


def read_json(path: str | Path) -> dict:
    """A JSON file of names and values; UsageError naming it when it is missing or damaged."""
    text = read_bytes(path)
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
    """The numbers or truth values of a .npy file, as data only; UsageError naming it when it holds anything else."""
    return _array(read_bytes(path, ARRAY_BYTES), path)


def read_arrays(path: str | Path, names: Sequence[str]) -> list[np.ndarray]:
    """Some arrays of a .npz file, as `read_array` reads one."""
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
    except Exception as error:  # zipfile raises eight kinds, and zlib its own
        raise UsageError(f"{path}: not an archive of arrays ({str(error)[:120]})") from error


def _array(content: bytes, path: str | Path) -> np.ndarray:
    """The array that the bytes of a .npy file hold."""
    file = io.BytesIO(content)
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        shape, _, dtype = headers[np.lib.format.read_magic(file)](file)
        if dtype.kind not in "biuf":
            raise UsageError(f"{path}: not an array of numbers (of {dtype})")
        # numpy takes the memory that a header claims before it reads.
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > len(content) - file.tell():
            raise UsageError(f"{path}: not an array of numbers (cut off: {shape} do not fit into the file)")
        return np.load(io.BytesIO(content), allow_pickle=False)
    except UsageError:
        raise
    except Exception as error:  # a header is a Python literal, and numpy raises what its parser does
        raise UsageError(f"{path}: not an array of numbers ({str(error)[:120]})") from error
