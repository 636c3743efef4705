"""Files that are whole at every instant, and containers that run no code."""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from runtime.errors import UsageError


def user_path(text: str | Path) -> Path:
    """A path as a user gives it, `~` and `~name` expanded; UsageError where no file can have it."""
    try:
        path = Path(text).expanduser()
        os.stat(path)
    except FileNotFoundError:
        pass
    except RuntimeError:
        raise UsageError(f"{text}: there is no such home folder; give the path in full") from None
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

    Raises UsageError where it is a folder, a device or (under any name) an input, exists, or cannot be written.
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
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: is a {'folder' if path.is_dir() else 'device'}; give a file to write")
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
def whole(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends, and vanishes when the block fails."""
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files that only their owner can read.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_tensors(path: str | Path, content: dict) -> None:
    with whole(path) as temporary:
        torch.save(content, temporary)


def read_tensors(path: str | Path) -> dict:
    """Tensors, numbers and containers by name of a file of torch.save, and nothing that could run.

    Raises UsageError naming the file when it is missing, damaged, or holds anything else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UsageError(f"{path}: damaged, or not a file of tensors alone ({reason})") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path}: holds a {type(content).__name__}, not tensors by name")
    return content


def read_json(path: str | Path) -> dict:
    """A JSON file of names and values; UsageError naming it when it is missing or damaged."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UsageError(f"{path}: not a JSON file ({error})") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path}: holds a {type(content).__name__}, not names and values")
    return content
