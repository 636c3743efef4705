"""Plug-ins: modules of users that register effects, losses, encoders and data sets before a program parses arguments.

A plug-in is an installed package with an entry point of the group `reknob.plugins`, or a module given by `--plugin`,
which may lie in the current folder. Importing it is all that happens: its code calls `reknob.register_effect` and the
like. Worker processes import the same modules, whose names they get by an environment variable.
"""

import os
import sys
import traceback
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TypeVar

from reknob.runtime.errors import UsageError

Entry = TypeVar("Entry")

FLAG = "--plugin"
GROUP = "reknob.plugins"
#: Names of modules, with commas between, for worker processes.
VARIABLE = "REKNOB_PLUGINS"
HELP = "module that registers effects, losses, encoders or data sets; repeatable"


def register(table: MutableMapping[str, Entry], noun: str, key: str, entry: Entry) -> None:
    """Adds an entry to a table of what programs find by key.

    Args:
        table: the table, which keeps its other entries.
        noun: what the table holds, for the message.
        key: a name of letters, digits and _, as it is given on command lines and in files.
        entry: what the key stands for from now on.

    Raises UsageError for a key that is no such name, or is taken by another entry.
    """
    if not isinstance(key, str) or not key.isidentifier():
        raise UsageError(f"{noun} {str(key)[:80]!r}: give a key of letters, digits and _")
    if table.get(key, entry) is not entry:
        raise UsageError(f"{noun} {key!r} is registered already; give yours another key")
    table[key] = entry


def split_arguments(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments without `--plugin NAME` and `--plugin=NAME`, and the names; UsageError where a name is missing."""
    rest, names, arguments = [], [], iter(argv)
    for argument in arguments:
        flag, equals, name = argument.partition("=")
        if flag != FLAG:
            rest.append(argument)
            continue
        name = name if equals else next(arguments, "")
        if not name or name.startswith("-"):
            raise UsageError(f"{FLAG}: the name of a module is missing; give {FLAG} my_module")
        if not all(step.isidentifier() for step in name.removesuffix(".py").split(".")):
            raise UsageError(f"{FLAG} {name[:200]}: is no module's name; give {FLAG} my_module for my_module.py")
        names.append(name.removesuffix(".py"))
    return rest, names


@contextmanager
def loaded(names: Sequence[str]) -> Iterator[None]:
    """Imports plug-ins, the installed ones too; within the context, processes that are started get their names.

    Raises UsageError for one that cannot be imported.
    """
    before = os.environ.get(VARIABLE)
    wanted = dict.fromkeys([*_inherited(), *names])
    try:
        if wanted:
            os.environ[VARIABLE] = ",".join(wanted)
        load()
        yield
    finally:
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before


def load() -> None:
    """Imports the installed plug-ins and those that the environment names; what is imported already costs nothing.

    Raises UsageError for one that cannot be imported.
    """
    # Slow to import, and imported by torch in any case.
    from importlib.metadata import entry_points

    for point in entry_points(group=GROUP):
        package = point.dist.name if point.dist else point.value
        with _as_usage_error(f"plug-in {point.name!r} of the installed package {package}"):
            point.load()
    for name in _inherited():
        with _as_usage_error(f"{FLAG} {name}"):
            _import(name)


def _inherited() -> list[str]:
    return [name for name in os.environ.get(VARIABLE, "").split(",") if name]


def _import(name: str) -> None:
    """Imports a module, first from the current folder.

    There it must precede a folder of this project (in a clone `losses.py` of a user would not be found); afterwards
    the folder goes behind all others, so that no file in it takes the place of a library that is imported later.
    """
    if name in sys.modules:
        return
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        import_module(name)
    finally:
        sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)


@contextmanager
def _as_usage_error(plugin: str) -> Iterator[None]:
    """Turns whatever the code of a plug-in raises as it is imported into one line with the place."""
    try:
        yield
    except (Exception, SystemExit) as error:
        # importlib's own frames, frozen or not, lie where a module is not found
        last = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename][-1]
        is_inside = last.filename != __file__ and not isinstance(error, (UsageError, SyntaxError))
        where = f" ({last.filename}, line {last.lineno})" if is_inside else ""
        kind = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
        raise UsageError(f"{plugin} cannot be imported: {kind}{error}{where}") from error
