"""Settings of a program: defaults of a dataclass, overridden by a YAML file, overridden by flags; checked by OmegaConf.

A program declares its settings as a dataclass whose fields are created by `option`, with a type, a default and a help.
A field that is such a dataclass itself is a group (`optimiser.lr`). A field of type dict is a tree (an effect chain,
say), whose content is checked where it is used.

    defaults ─┬─ values: dotted name → value ─┐
    file     ─┤                               ├─ references written out ─ each checked ─ instance of the dataclass
    flags    ─┴─ trees:  dotted name → dict  ─┘
"""

import argparse
import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from numbers import Real
from types import NoneType, UnionType
from typing import TypeVar, get_args, get_origin, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from reknob.runtime import output, plugins
from reknob.runtime.errors import UsageError
from reknob.runtime.trees import copy_tree, interpolated, is_off, merge, parse_yaml, read_yaml

__all__ = ["Option", "load_settings", "merge", "option", "options_of", "read_number", "read_yaml", "settings_from"]

T = TypeVar("T")
SIMILAR = 0.6  # SequenceMatcher's ratio from which a known name is suggested for an unknown one
Help = str | Callable[[], str]


def option(default: T, help: Help, *, above: float | None = None, within: tuple[float, float] | None = None) -> T:
    """A field of a dataclass of settings; typed as its value, like `dataclasses.field`.

    Args:
        default: its value where neither file nor flag sets it.
        help: its line of `--help`; a function for a text that names what plug-ins may add to.
        above: a number must be greater than this.
        within: the lowest and the highest number allowed.
    """
    metadata = {"help": help, "above": above, "within": within}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: copy_tree(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Option:
    """One declared setting; a tree where `kind` is dict."""

    name: str  # dotted, as optimiser.lr
    kind: type
    default: object
    help: str
    nullable: bool = False
    above: float | None = None
    within: tuple[float, float] | None = None

    def checked(self, value: object) -> object:
        """The value converted to the declared type; UsageError, naming value and constraint, where it violates one."""
        if self.nullable and is_off(value):
            return None
        try:
            value = _READERS[self.kind](value)
        except (TypeError, ValueError):
            allowed = _WORDS[self.kind] + (" or null" if self.nullable else "")
            raise UsageError(f"{self.name}={_as_yaml(value)[:200]}: expected {allowed}") from None
        if isinstance(value, (int, float)):
            self._check_bounds(value)
        return value

    def _check_bounds(self, value: float) -> None:
        if self.above is not None and not value > self.above:
            raise UsageError(f"{self.name}={value}: must be above {self.above:g}")
        if self.within is not None and not self.within[0] <= value <= self.within[1]:
            lowest, highest = (f"{end:g}" if isinstance(end, float) else end for end in self.within)
            raise UsageError(f"{self.name}={value}: give {lowest} to {highest}")


CONFIG = Option("config", str, None, "YAML file of settings; flags go over it", nullable=True)
# What a program shows is no setting of what it computes, and no part of its record.
SHOWN = {"quiet": Option("quiet", bool, False, output.QUIET), "json": Option("json", bool, False, output.JSON)}


def options_of(schema: type, prefix: str = "") -> dict[str, Option]:
    """The declared settings of a dataclass by dotted name."""
    types, options = get_type_hints(schema), {}
    for field in dataclasses.fields(schema):
        kind, name = types[field.name], prefix + field.name
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            options |= options_of(kind, f"{name}.")
            continue
        # `float | None` is a nullable float, `list[float]` a list.
        nullable = get_origin(kind) is UnionType and NoneType in get_args(kind)
        kind = next(k for k in get_args(kind) if k is not NoneType) if nullable else get_origin(kind) or kind
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        help, above, within = (field.metadata[key] for key in ("help", "above", "within"))
        text = str(help() if callable(help) else help)
        options[name] = Option(name, kind, default, text, nullable=nullable, above=above, within=within)
    return options


def _as_yaml(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def read_number(text: str) -> float | None:
    """A finite number, or None for off, null and none; ValueError for anything else."""
    if is_off(text):
        return None
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is not finite")
    return value


def _read_bool(value: object) -> bool:
    if isinstance(value, str) and value.lower() in ("yes", "on", "no", "off"):
        return value.lower() in ("yes", "on")
    if not isinstance(value, bool):
        raise TypeError(value)
    return value


def _read_int(value: object) -> int:
    # bool is an int to Python, and a mistake where a number is asked for.
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(value)
    if isinstance(value, int):
        return value
    if not (number := float(value)).is_integer():
        raise TypeError(value)
    return int(number)


def _read_float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(value)
    try:
        number = float(value)
    except OverflowError:  # an integer of more than 308 digits
        raise TypeError(value) from None
    if not abs(number) <= 1e300:  # nor NaN
        raise TypeError(value)
    return number


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


_READERS: dict[type, Callable[[object], object]] = {
    bool: _read_bool,
    int: _read_int,
    float: _read_float,
    str: _read_text,
    list: _read_list,
    dict: _read_dict,
}
_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list of numbers, as [1, 0.5]",
    dict: "a tree of settings",
}


def load_settings(
    schema: type[T],
    argv: Sequence[str],
    *,
    description: str | None,
    translate: Callable[[dict, Collection[str]], dict] | None = None,
) -> T:
    """An instance of `schema` with the settings of a command line.

    Args:
        schema: the dataclass that declares the settings.
        argv: `key=value`, `--key=value` or `--key value`; `--config=FILE` reads a YAML file, which flags override,
            `--quiet` and `--json` are those of every program, and `--help` prints every setting and exits.
        description: the text above the list of settings in the help.
        translate: rewrites the file's tree, given that and the names that `argv` sets.

    References (`${sr}`) are replaced last, so that they see the flags. UsageError for an unknown name, suggesting the
    most similar one, and for a value of the wrong type or out of bounds.
    """
    options = options_of(schema)
    given = dict(_pairs(argv, {"config": CONFIG} | SHOWN | options, description))
    shown = {name: bool(o.checked(_parse(given.pop(name, "false"), o))) for name, o in SHOWN.items()}
    output.choose(quiet=shown["quiet"], as_json=shown["json"])
    config, changes = given.pop("config", None), []
    if config:
        tree = read_yaml(config)
        changes = _flatten(translate(tree, given) if translate else tree, options)
    # Flags come after the file, and override it.
    changes += [(name, _parse(text, _find(options, name))) for name, text in given.items()]
    return _with_changes(schema, options, changes)


def settings_from(schema: type[T], tree: dict) -> T:
    """The settings of a tree, as a file holds it, over the defaults; UsageError as in `load_settings`."""
    options = options_of(schema)
    return _with_changes(schema, options, _flatten(tree, options))


def _with_changes(schema: type[T], options: dict[str, Option], changes: Sequence[tuple[str, object]]) -> T:
    """The defaults of a schema with values by dotted name laid over them, in order."""
    trees = {name: copy_tree(o.default) for name, o in options.items() if o.kind is dict}
    values = {name: o.default for name, o in options.items() if o.kind is not dict}
    for name, value in changes:
        _assign(values, trees, options, name, value)
    return _instance(schema, options, _without_references(values | trees))


def _without_references(values: dict[str, object]) -> dict[str, object]:
    """Values by dotted name with their references replaced; these may point to any other setting."""
    root: dict = {}
    for name, value in values.items():
        *parents, leaf = name.split(".")
        node = root
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    root, replaced = interpolated(root), {}
    for name in values:
        node = root
        for step in name.split("."):
            node = node[step]
        replaced[name] = node
    return replaced


def _instance(schema: type[T], options: dict[str, Option], values: dict[str, object]) -> T:
    """An instance of the schema with these values by dotted name, each checked by OmegaConf and by its declaration."""
    typed = OmegaConf.structured(schema)
    for name, value in values.items():
        if options[name].kind is dict:
            continue
        value, default = options[name].checked(value), options[name].default
        if type(value) is type(default) and value == default:
            continue  # which it holds already; an update takes as long as all that is done here for a value
        try:
            OmegaConf.update(typed, name, value)
        except OmegaConfBaseException as error:
            raise UsageError(f"{name}={value}: {str(error).splitlines()[0]}") from error
    settings = OmegaConf.to_object(typed)
    assert isinstance(settings, schema)
    for name, declared in options.items():
        if declared.kind is dict:
            # Not through OmegaConf, which would wrap every value in a node and resolve references once more.
            *groups, leaf = name.split(".")
            setattr(functools.reduce(getattr, groups, settings), leaf, declared.checked(values[name]))
    return settings


def _pairs(argv: Sequence[str], options: dict[str, Option], description: str | None) -> list[tuple[str, str]]:
    """(name, text of the value) of every argument, in order; a flag without a value is "true"."""
    if "--help" in argv or "-h" in argv:
        _parser(options, description).print_help()
        raise SystemExit(0)
    pairs, remaining = [], list(argv)
    while remaining:
        argument = remaining.pop(0)
        key, equals, text = argument.removeprefix("--").partition("=")
        if not equals and not argument.startswith("--"):
            raise UsageError(f"{argument[:200]!r}: expected key=value; --help lists the keys")
        declared = _find(options, key)
        kind = declared.kind
        if not equals:
            has_value = remaining and not remaining[0].startswith("--") and (kind is not bool or _is_bool(remaining[0]))
            if not has_value and kind is not bool:
                raise UsageError(f"--{key}: its value is missing; give --{key}=VALUE")
            text = remaining.pop(0) if has_value else "true"
        if not text and kind is not dict and not declared.nullable:
            raise UsageError(f"{key}=: its value is missing; give {key}=VALUE")
        pairs.append((key, text))
    return pairs


def _is_bool(text: str) -> bool:
    return text.lower() in ("true", "false", "yes", "no", "on", "off")


def _parser(options: dict[str, Option], description: str | None) -> argparse.ArgumentParser:
    """A parser that is used for its help only, as argparse cannot parse `key=value`."""
    parser = argparse.ArgumentParser(
        description=description, usage="%(prog)s [key=value …]", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for o in options.values():
        default = "" if o.default in (None, {}) else f" (default {o.default})"
        parser.add_argument(f"--{o.name}", metavar=o.kind.__name__, help=(o.help + default).replace("%", "%%"))
    parser.add_argument(plugins.FLAG, metavar="MODULE", help=plugins.HELP)
    return parser


def _find(options: dict[str, Option], name: str) -> Option:
    """The setting of a dotted name, or the tree that contains it; UsageError that suggests the most similar name."""
    steps = name.split(".")
    above = (".".join(steps[:depth]) for depth in range(1, len(steps)))
    tree = next((outer for outer in above if outer in options and options[outer].kind is dict), None)
    known = name if name in options else tree
    if known is not None:
        return options[known]

    def similarity(known: str) -> float:
        return max(SequenceMatcher(None, name, text).ratio() for text in (known, known.rpartition(".")[2]))

    if group := [option for option in options if option.startswith(f"{name}.")]:
        raise UsageError(f"{name} is a group of settings; give one of {', '.join(group)}")
    close = max(options, key=similarity)
    suggests = similarity(close) >= SIMILAR
    hint = f"did you mean {close}? --help lists all" if suggests else f"known: {', '.join(options)}"
    raise UsageError(f"unknown setting {name[:200]!r}; {hint}")


def _parse(text: str, declared: Option) -> object:
    """A flag's text parsed as YAML; unchanged for settings of type text, and where it is no YAML. None if empty."""
    if declared.kind is str:
        return text or None
    try:
        return parse_yaml(text)
    except (UsageError, yaml.YAMLError, UnicodeError):
        return text


def _assign(values: dict, trees: dict, options: dict[str, Option], name: str, value: object) -> None:
    """Sets one setting, or one entry of a tree, whose missing parents are created."""
    declared = _find(options, name)
    if name == declared.name:
        # Checked before it may be overridden, so that a wrong value in a file is reported; references only after they
        # are replaced.
        is_reference = isinstance(value, str) and "${" in value
        (trees if declared.kind is dict else values)[name] = value if is_reference else declared.checked(value)
        return
    *path, leaf = name[len(declared.name) + 1 :].split(".")
    node = trees[declared.name]
    for step in path:
        if not isinstance(node.get(step, {}), dict):
            raise UsageError(f"{name[:200]}: {step!r} is a value, not a tree")
        node = node.setdefault(step, {})
    node[leaf] = value


def _flatten(tree: dict, options: dict[str, Option], prefix: str = "") -> list[tuple[str, object]]:
    """(dotted name, value) of a file's settings; declared trees are not flattened."""
    rows = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        is_group = isinstance(value, dict) and name not in options
        rows += _flatten(value, options, f"{name}.") if is_group else [(name, value)]
    return rows
