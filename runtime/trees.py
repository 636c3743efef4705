"""YAML files as trees of settings, read as data only: bounded in size, depth and expansion, whoever wrote them.

Scalars follow YAML 1.2: `1e-3` is a number, and `yes`, `no`, `on` and `off` are text.
"""

import math
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import yaml

from reknob.runtime.errors import UsageError
from reknob.runtime.files import user_path

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# What a file name that is not UTF-8 is written as; libyaml refuses it, and PyYAML itself reads it.
_LONE_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
MOST_BYTES = 1_000_000
MOST_VALUES = 100_000  # with every alias and reference written out
MOST_LEVELS = 50
MOST_CHARACTERS = 10_000  # of a text with references
#: How to say that something is not wanted; `null`, `~` and nothing are None in YAML already.
OFF = ("off", "none", "null")

_TAG = "tag:yaml.org,2002:"
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_REFERENCE = re.compile(r"\$\{(\.*)([^{}:]+)\}")


def read_yaml(path: str | Path, below: tuple[Path, ...] = ()) -> dict:
    """A YAML file as a tree; UsageError naming the file when it is missing, no tree, or larger than settings can be.

    A file that says `base: OTHER.yaml`, from its own folder on, holds the changes to that one; `below` are the files
    that this one is the base of.
    """
    path = user_path(path)
    if path.resolve() in below or len(below) > MOST_LEVELS:
        raise UsageError(f"{path}: is its own base; give base: another file, or none")
    try:
        tree = parse_yaml(_text_of(path), finite=True)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: {_reason(error)}") from error
    if not isinstance(tree, dict):
        raise UsageError(f"{path}: expected settings, one `name: value` a line")
    base = tree.pop("base", None)
    return tree if base is None else merge(read_yaml(path.parent / str(base), (*below, path.resolve())), tree)


def _text_of(path: Path) -> str:
    """The text of a regular file; a pipe or a device could have no end."""
    if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
        raise UsageError("not a regular file; give a YAML file")
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise UsageError(f"larger than {MOST_BYTES:,} bytes; files of settings are smaller")
    return content.decode("utf-8")


def _reason(error: Exception) -> str:
    if isinstance(error, UsageError):
        return str(error)
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror})"
    return f"not a YAML file ({str(error).splitlines()[0][:200]})"


def parse_yaml(text: str, *, finite: bool = False) -> object:
    """The value of a YAML text: dicts by text, lists, text, numbers, booleans, None.

    Raises UsageError with the line for tags, recursion, keys given twice, what is too deep or too large, and with
    `finite` for numbers that are not; yaml.YAMLError for what is no YAML.
    """
    return _Reader(text, finite).document()


class _Reader:
    """One pass over the events of a YAML text, as PyYAML's own constructors expand aliases and merges without bound."""

    def __init__(self, text: str, finite: bool):
        self.events: Iterator[yaml.Event] = yaml.parse(
            text, Loader=yaml.SafeLoader if _LONE_SURROGATE.search(text) else LOADER
        )
        self.finite, self.count = finite, 0
        self.anchors: dict[str, tuple[object, int]] = {}  # finished values, and how many each holds

    def document(self) -> object:
        next(self.events)
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None
        value = self.value(next(self.events), 0)
        next(self.events)
        following = next(self.events)
        if not isinstance(following, yaml.StreamEndEvent):
            raise _refused(following, "a second document begins; give one")
        return value

    def value(self, event: yaml.Event, level: int) -> object:
        """The value that an event begins."""
        if level > MOST_LEVELS:
            raise _refused(event, f"nested deeper than {MOST_LEVELS} levels")
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise _refused(event, f"the alias *{event.anchor} names nothing before it, or what it is a part of")
            value, size = self.anchors[event.anchor]
            self.grow(event, size)
            return copy_tree(value)
        before = self.count
        self.grow(event, 1)
        if isinstance(event, yaml.ScalarEvent):
            value = _scalar(event, self.finite)
        elif event.tag and not event.implicit:
            raise yaml.YAMLError(f"line {event.start_mark.line + 1}: the tag {event.tag} is not plain data")
        else:
            value = self.sequence(level) if isinstance(event, yaml.SequenceStartEvent) else self.mapping(level)
        if event.anchor:
            self.anchors[event.anchor] = value, self.count - before
        return value

    def sequence(self, level: int) -> list:
        items = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self.value(event, level + 1))
        return items

    def mapping(self, level: int) -> dict[str, object]:
        tree, merged = {}, {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise _refused(event, "a name must be text")
            value = self.value(next(self.events), level + 1)
            if event.value == "<<" and event.implicit[0]:
                for base in reversed(value if isinstance(value, list) else [value]):
                    if not isinstance(base, dict):
                        raise _refused(event, "<< takes a tree, or a list of trees")
                    merged |= base
            elif event.value in tree:
                raise _refused(event, f"{event.value[:80]!r} is given twice")
            else:
                tree[event.value] = value
        return merged | tree

    def grow(self, event: yaml.Event, size: int) -> None:
        self.count += size
        if self.count > MOST_VALUES:
            raise _refused(event, f"with every alias written out it holds more than {MOST_VALUES:,} values")


def _refused(event: yaml.Event, reason: str) -> UsageError:
    return UsageError(f"line {event.start_mark.line + 1}: {reason}")


def _scalar(event: yaml.ScalarEvent, finite: bool) -> object:
    text, tag = event.value, event.tag
    if tag in (None, "!") or event.implicit[0]:
        if not event.implicit[0]:
            return text
        kinds = {"null": _NULL, "bool": _BOOL, "int": _INT, "float": _FLOAT}
        tag = _TAG + next((kind for kind, pattern in kinds.items() if pattern.fullmatch(text)), "str")
    if tag == f"{_TAG}str":
        return text
    if tag == f"{_TAG}null":
        return None
    if tag == f"{_TAG}bool" and _BOOL.fullmatch(text):
        return text.lower() == "true"
    if tag == f"{_TAG}int" and _INT.fullmatch(text) and len(text) < 1000:
        return int(text, 0 if text[:2] in ("0x", "0o") else 10)
    if tag == f"{_TAG}float" and _FLOAT.fullmatch(text):
        number = float(text.replace(".inf", "inf").replace(".nan", "nan")) if text[-1] in "fFnN" else float(text)
        if finite and not math.isfinite(number):
            raise _refused(event, f"{text[:40]} is not a finite number")
        return number
    given = f"{text[:40]!r} tagged {tag.removeprefix(_TAG)[:80]}"
    raise yaml.YAMLError(f"line {event.start_mark.line + 1}: {given} is not plain data")


def is_off(value: object) -> bool:
    """Whether a value says that something is not wanted."""
    return value is None or (isinstance(value, str) and value.strip().lower() in OFF)


def copy_tree(value: object) -> object:
    """A tree of dicts and lists that shares nothing with another."""
    if isinstance(value, dict):
        return {key: copy_tree(item) for key, item in value.items()}
    return [copy_tree(item) for item in value] if isinstance(value, list) else value


def merge(base: dict, changes: dict) -> dict:
    """A tree with the changes of another laid over it."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def interpolated(tree: dict, scope: dict | None = None) -> dict:
    """A tree with its references written out: `${sr}`, `${mss.fft_sizes}`, `${.sibling}`, `${..uncle}`.

    They are OmegaConf's and Hydra's, without its resolvers: `${oc.env:HOME}` and the like are refused, as a file must
    not read the environment or run anything. `scope` holds what the tree itself does not define. Raises UsageError
    naming the reference for those, for one that leads nowhere or back to itself, and for what grows out of bounds.
    """
    return _References((scope or {}) | tree).resolved(tree, ())


class _References:
    """References of a tree; OmegaConf's own expand without bound, this remembers and counts."""

    def __init__(self, root: dict):
        self.root, self.known, self.open, self.count = root, {}, [], 0

    def resolved(self, value: object, path: tuple) -> object:
        if isinstance(value, dict):
            return {key: self.resolved(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.resolved(item, (*path, i)) for i, item in enumerate(value)]
        return self.text(value, path) if isinstance(value, str) and "${" in value else value

    def text(self, text: str, path: tuple) -> object:
        """A text with its references replaced; a text that is one reference is what that leads to."""
        if whole := _REFERENCE.fullmatch(text):
            return self.target(whole, path)
        written = _REFERENCE.sub(lambda found: str(self.target(found, path)), text[: MOST_CHARACTERS + 1])
        if len(written) > MOST_CHARACTERS:
            raise UsageError(f"{text[:80]}: longer than {MOST_CHARACTERS:,} characters with its references written out")
        if "${" in written:
            raise UsageError(f"{text[:80]}: only references to other settings are read, as ${{sr}}; write the value")
        return written

    def target(self, found: re.Match, path: tuple) -> object:
        dots, name = found.groups()
        if len(dots) > len(path):
            raise UsageError(f"{found[0][:80]}: leads out of the file")
        above = path[: len(path) - len(dots)] if dots else ()
        place = (*above, *(key for key in re.split(r"[.\[\]]+", name) if key))
        if place in self.open or len(self.open) >= MOST_LEVELS:
            raise UsageError(f"{found[0][:80]}: leads back to itself, or through too many others")
        if place not in self.known:
            self.open.append(place)
            value = self.root
            for depth, key in enumerate(place):
                inside = isinstance(value, list) and str(key).isdigit() and int(key) < len(value)
                if not inside and not (isinstance(value, dict) and key in value):
                    raise UsageError(f"{found[0][:80]}: there is no such setting in the file")
                value = value[int(key)] if inside else value[key]
                if isinstance(value, str) and "${" in value:
                    value = self.text(value, place[: depth + 1])
            value = self.resolved(value, place)
            self.open.pop()
            self.known[place] = value
        self.count += _size(self.known[place])
        if self.count > MOST_VALUES:
            raise UsageError(f"{found[0][:80]}: with every reference written out there are over {MOST_VALUES:,} values")
        return copy_tree(self.known[place])


def _size(value: object) -> int:
    """How many values a tree holds."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(_size, items))
