"""Settings of a program: flags over a YAML file over defaults, each declared once with its type and its help."""

import argparse
import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import yaml

from runtime.errors import UsageError


@dataclass(frozen=True)
class Setting:
    """One setting: dotted name, type, default and help. `kind` dict stands for a tree that others check (a chain)."""

    name: str
    kind: type
    default: object
    help: str
    nullable: bool = False

    def checked(self, value: object) -> object:
        """The value as the declared type; UsageError that says what was given and what is allowed."""
        if value is None and (self.default is None or self.nullable):
            return None
        try:
            return _READERS[self.kind](value)
        except (TypeError, ValueError):
            allowed = _WORDS[self.kind] + (" or null" if self.nullable else "")
            raise UsageError(f"{self.name}={value}: expected {allowed}") from None


CONFIG = Setting("config", str, None, "YAML file of settings; flags go over it")


def _read_bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(value)
    return value


def _read_int(value: object) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise TypeError(value)
    return int(value)


def _read_float(value: object) -> float:
    if isinstance(value, bool) or not math.isfinite(float(value)):
        raise TypeError(value)
    return float(value)


def _read_text(value: object) -> str:
    if value is None or isinstance(value, (list, dict)):
        raise TypeError(value)
    return str(value)


def _read_list(value: object) -> list[float]:
    if not isinstance(value, list):
        raise TypeError(value)
    return [_read_float(item) for item in value]


def _read_dict(value: object) -> dict:
    if not isinstance(value, dict):
        raise TypeError(value)
    return value


_READERS = {bool: _read_bool, int: _read_int, float: _read_float, str: _read_text, list: _read_list, dict: _read_dict}
_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list of numbers, as [1, 0.5]",
    dict: "a tree of settings",
}


def read_yaml(path: str | Path, below: tuple[Path, ...] = ()) -> dict:
    """A YAML file as a tree, as data only; UsageError naming the file when it is missing or no tree.

    A file that says `base: OTHER.yaml`, from its own folder on, holds the changes to that one; `below` are the files
    that this one is the base of.
    """
    path = Path(path).expanduser()
    if path.resolve() in below:
        raise UsageError(f"{path}: is its own base; give base: another file, or none")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a YAML file ({str(error).splitlines()[0]})") from error
    if not isinstance(tree, dict):
        raise UsageError(f"{path}: expected settings, one `name: value` a line")
    base = tree.pop("base", None)
    return tree if base is None else merge(read_yaml(path.parent / str(base), (*below, path.resolve())), tree)


def load_settings(
    declared: Sequence[Setting],
    argv: Sequence[str],
    *,
    description: str,
    translate: Callable[[dict], dict] | None = None,
) -> dict:
    """The settings of one run, by dotted name; trees (kind dict) hold what was set inside them.

    `argv` holds `key=value` or `--key=value` or `--key value`; `--config=FILE` reads a YAML file first; `--help`
    prints every setting and exits. `translate` rewrites the file's tree first. Raises UsageError for an unknown key,
    naming the nearest, and for a wrong type.
    """
    given = dict(_pairs(argv, (CONFIG, *declared), description))
    settings = {s.name: copy.deepcopy(s.default) for s in declared}
    config = given.pop("config", None)
    if config:
        tree = read_yaml(config)
        for name, value in _flatten(translate(tree) if translate else tree, declared):
            _assign(settings, declared, name, value)
    for name, text in given.items():
        _assign(settings, declared, name, _parse(text, declared, name))
    return settings


def _pairs(argv: Sequence[str], declared: Sequence[Setting], description: str) -> list[tuple[str, str]]:
    """(key, text) of every argument, in order."""
    if "--help" in argv or "-h" in argv:
        _parser(declared, description).print_help()
        raise SystemExit(0)
    pairs, rest = [], list(argv)
    while rest:
        argument = rest.pop(0)
        key, equals, text = argument.removeprefix("--").partition("=")
        if not equals and not argument.startswith("--"):
            raise UsageError(f"{argument!r}: expected key=value; --help lists the keys")
        kind = _find(declared, key).kind
        if not equals:
            follows = rest and not rest[0].startswith("--") and (kind is not bool or rest[0] in ("true", "false"))
            if not follows and kind is not bool:
                raise UsageError(f"--{key}: its value is missing; give --{key}=VALUE")
            text = rest.pop(0) if follows else "true"
        pairs.append((key, text))
    return pairs


def _parser(declared: Sequence[Setting], description: str) -> argparse.ArgumentParser:
    """Only for its help: argparse itself cannot read `key=value`."""
    parser = argparse.ArgumentParser(
        description=description, usage="%(prog)s [key=value …]", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for s in declared:
        default = "" if s.default in (None, {}) else f" (default {s.default})"
        parser.add_argument(f"--{s.name}", metavar=s.kind.__name__, help=(s.help + default).replace("%", "%%"))
    return parser


def _find(declared: Sequence[Setting], name: str) -> Setting:
    """The setting of a name, or the tree that the name is inside of."""
    for s in declared:
        if s.name == name or (s.kind is dict and name.startswith(s.name + ".")):
            return s
    known = [s.name for s in declared]
    close = get_close_matches(name, known, 1, 0.5)
    hint = f"did you mean {close[0]}? --help lists all" if close else f"known: {', '.join(known)}"
    raise UsageError(f"unknown setting {name!r}; {hint}")


def _parse(text: str, declared: Sequence[Setting], name: str) -> object:
    """A flag's text as YAML would read it; text and paths stay as they are."""
    if _find(declared, name).kind is str:
        return None if text in ("null", "None") else text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _assign(settings: dict, declared: Sequence[Setting], name: str, value: object) -> None:
    """Sets one setting, or one place inside a tree."""
    setting = _find(declared, name)
    if name == setting.name:
        settings[name] = setting.checked(value)
        return
    *path, leaf = name[len(setting.name) + 1 :].split(".")
    node = settings[setting.name]
    for step in path:
        if not isinstance(node.get(step, {}), dict):
            raise UsageError(f"{name}: {step!r} is a value, not a tree")
        # A copy, as the aliases of a YAML file share their trees.
        node[step] = dict(node.get(step, {}))
        node = node[step]
    node[leaf] = value


def _flatten(tree: dict, declared: Sequence[Setting], prefix: str = "") -> list[tuple[str, object]]:
    """(dotted name, value) of a file's settings, not looking inside declared trees."""
    rows = []
    names = {s.name for s in declared}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        inside = isinstance(value, dict) and name not in names
        rows += _flatten(value, declared, f"{name}.") if inside else [(name, value)]
    return rows


def merge(base: dict, changes: dict) -> dict:
    """A tree with the changes of another laid over it."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged
