"""Trees of settings from untrusted YAML files: data only, bounded in size, depth and expansion of aliases.

Scalars follow YAML 1.2: `1e-3` is a number, and `yes`, `no`, `on` and `off` are text.

    file ─ text ─ events of libyaml ─ _Reader: tree ─ merged with its base ─ _References: `${…}` replaced
"""

import math
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import yaml

from reknob.runtime.errors import UsageError
from reknob.runtime.files import user_path

T = TypeVar("T")
KeyPath = tuple[str | int, ...]  # of a value in a tree, from the root

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# How file names that are not UTF-8 are written; libyaml rejects these escapes, PyYAML's own parser reads them.
_LONE_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
MOST_BYTES = 1_000_000
MOST_VALUES = 100_000  # with every alias and reference expanded
MOST_LEVELS = 50
MOST_CHARACTERS = 10_000  # of a text with references
#: Texts that mean "none"; `null`, `~` and an empty value are None in YAML already.
OFF = ("off", "none", "null")

_TAG = "tag:yaml.org,2002:"
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_BREAK = re.compile(r"[\x85\u2028\u2029]")
_REFERENCE = re.compile(r"\$\{(\.*)([^{}:]+)\}")


def read_yaml(path: str | Path, below: tuple[Path, ...] = ()) -> dict:
    """The tree of a YAML file; UsageError naming the file when it is missing, damaged, no tree or too large.

    Args:
        path: the file. Its entry `base: OTHER.yaml`, a path from its folder, names a file that its tree is merged into.
        below: the files that have this one as their base, to detect a cycle.
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
    """The text of a file; UsageError for pipes and devices, as reading one may never end, and for large files."""
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
    """The value of a YAML text: dicts with text as keys, lists, text, numbers, booleans, None.

    UsageError with the line for recursion, duplicate keys, excessive depth or size, and, with `finite`, numbers that
    are not finite. yaml.YAMLError for tags and for text that is not YAML.
    """
    return _Reader(text, finite).document()


class _Reader:
    """A recursive descent over the events of a YAML text.

    PyYAML's own constructors are not used, as they expand aliases and merge keys without bound.
    """

    def __init__(self, text: str, finite: bool) -> None:
        self.events: Iterator[yaml.Event] = yaml.parse(
            text, Loader=yaml.SafeLoader if _LONE_SURROGATE.search(text) else LOADER
        )
        self.finite, self.count = finite, 0
        self.anchors: dict[str, tuple[object, int]] = {}  # complete values only, and how many values each contains

    def document(self) -> object:
        next(self.events)  # the start of the stream
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None
        value = self.value(next(self.events), 0)
        next(self.events)  # the end of the document
        following = next(self.events)
        if not isinstance(following, yaml.StreamEndEvent):
            raise _refused(following, "a second document begins; give one")
        return value

    def value(self, event: yaml.Event, level: int) -> object:
        """The value that starts with an event, whose further events are consumed."""
        if level > MOST_LEVELS:
            raise _refused(event, f"nested deeper than {MOST_LEVELS} levels")
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise _refused(event, f"the alias *{event.anchor} names nothing before it, or its own anchor")
            value, size = self.anchors[event.anchor]
            self.grow(event, size)
            return copy_tree(value)
        before = self.count
        self.grow(event, 1)
        assert isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent))
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
                # YAML 1.1's merge key: earlier trees of a list precede later ones, keys of the mapping all of them.
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
    # implicit[0]: a plain scalar, whose type follows from its text; a quoted one without a tag is text.
    if tag in (None, "!") or event.implicit[0]:
        if not event.implicit[0]:
            return text
        tag = _tag(text)
    if tag == f"{_TAG}str":
        return text
    if tag == f"{_TAG}null":
        return None
    if tag == f"{_TAG}bool" and _BOOL.fullmatch(text):
        return text.lower() == "true"
    if tag == f"{_TAG}int" and _INT.fullmatch(text) and len(text) < 1000:  # int() raises from 4300 digits on
        return int(text, 0 if text[:2] in ("0x", "0o") else 10)
    if tag == f"{_TAG}float" and _FLOAT.fullmatch(text):
        number = float(text.replace(".inf", "inf").replace(".nan", "nan")) if text[-1] in "fFnN" else float(text)
        if finite and not math.isfinite(number):
            raise _refused(event, f"{text[:40]} is not a finite number")
        return number
    given = f"{text[:40]!r} tagged {tag.removeprefix(_TAG)[:80]}"
    raise yaml.YAMLError(f"line {event.start_mark.line + 1}: {given} is not plain data")


def _tag(text: str) -> str:
    """The tag of a plain scalar in YAML 1.2."""
    kinds = {"null": _NULL, "bool": _BOOL, "int": _INT, "float": _FLOAT}
    return _TAG + next((kind for kind, pattern in kinds.items() if pattern.fullmatch(text)), "str")


def yaml_text(tree: dict) -> str:
    """A tree as YAML that `parse_yaml` reads as the same tree, and a reader of YAML 1.1 as well."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Quotes what PyYAML, a writer of YAML 1.1, leaves plain: texts such as 08 and 1e3."""

    def represent_scalar(self, tag: str, value: str, style: str | None = None) -> yaml.ScalarNode:
        # In other quotes PyYAML reads the line breaks beyond ASCII, which it writes as they are, as spaces.
        if tag == f"{_TAG}str" and (_tag(value) != tag or _BREAK.search(value)):
            style = '"'
        return super().represent_scalar(tag, value, style)


def is_off(value: object) -> bool:
    """Whether a value is None or a text that means "none"."""
    return value is None or (isinstance(value, str) and value.strip().lower() in OFF)


def copy_tree(value: T) -> T:
    """A deep copy of a tree of dicts and lists; a part that occurs several times is copied each time."""
    # Checkers do not see that a dict gives a dict, and a list a list.
    if isinstance(value, dict):
        return {key: copy_tree(item) for key, item in value.items()}  # pyright: ignore[reportReturnType]
    if isinstance(value, list):
        return [copy_tree(item) for item in value]  # pyright: ignore[reportReturnType]
    return value


def merge(base: dict, changes: dict) -> dict:
    """A tree with the values of another in place of its own; dicts in both are merged in turn."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def interpolated(tree: dict, scope: dict | None = None) -> dict:
    """A tree with its references replaced: `${sr}`, `${mss.fft_sizes}`, `${.sibling}`, `${..parents_sibling}`.

    The syntax is that of OmegaConf and Hydra without resolvers: `${oc.env:HOME}` is refused, as a file must neither
    read the environment nor run code. `scope` defines names that the tree does not. UsageError naming the reference
    for a resolver, an undefined name, a cycle, and an expansion beyond MOST_VALUES.
    """
    references = _References((scope or {}) | tree)
    return {key: references.resolved(item, (key,)) for key, item in tree.items()}


class _References:
    """Replaces the references of a tree; caches their targets and bounds the size, which OmegaConf does not."""

    def __init__(self, root: dict) -> None:
        self.root = root
        self.targets: dict[KeyPath, object] = {}  # already resolved
        self.active: list[KeyPath] = []  # being resolved, outermost first
        self.count = 0

    def resolved(self, value: object, path: KeyPath) -> object:
        """A value at a path of the tree, with its references replaced."""
        if isinstance(value, dict):
            return {key: self.resolved(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.resolved(item, (*path, i)) for i, item in enumerate(value)]
        return self.text(value, path) if isinstance(value, str) and "${" in value else value

    def text(self, text: str, path: KeyPath) -> object:
        """A text with its references replaced; the target itself where the text is one reference and nothing else."""
        if reference := _REFERENCE.fullmatch(text):
            return self.target(reference, path)
        replaced = _REFERENCE.sub(lambda reference: str(self.target(reference, path)), text[: MOST_CHARACTERS + 1])
        if len(replaced) > MOST_CHARACTERS:
            raise UsageError(f"{text[:80]}: longer than {MOST_CHARACTERS:,} characters with its references written out")
        if "${" in replaced:
            raise UsageError(f"{text[:80]}: only references to other settings are read, as ${{sr}}; write the value")
        return replaced

    def target(self, reference: re.Match[str], path: KeyPath) -> object:
        """A copy of the resolved value that a reference in a value at `path` points to."""
        dots, name = reference.groups()
        if len(dots) > len(path):
            raise UsageError(f"{reference[0][:80]}: leads out of the file")
        # One dot is the dict that contains the value, each further dot its parent; none is the root.
        above = path[: len(path) - len(dots)] if dots else ()
        target = (*above, *(key for key in re.split(r"[.\[\]]+", name) if key))
        if target in self.active or len(self.active) >= MOST_LEVELS:
            raise UsageError(f"{reference[0][:80]}: leads back to itself, or through too many others")
        if target not in self.targets:
            self.active.append(target)
            value: object = self.root
            for depth, key in enumerate(target):
                try:
                    value = _child(value, key)
                except KeyError:
                    raise UsageError(f"{reference[0][:80]}: there is no such setting in the file") from None
                # What a path leads through may be a reference itself.
                if isinstance(value, str) and "${" in value:
                    value = self.text(value, target[: depth + 1])
            value = self.resolved(value, target)
            self.active.pop()
            self.targets[target] = value
        self.count += _size(self.targets[target])
        if self.count > MOST_VALUES:
            raise UsageError(
                f"{reference[0][:80]}: with every reference written out there are over {MOST_VALUES:,} values"
            )
        return copy_tree(self.targets[target])


def _child(value: object, key: str | int) -> object:
    """An entry of a dict by its name or of a list by its index; KeyError where there is none."""
    if isinstance(value, list) and str(key).isdigit() and int(key) < len(value):
        return value[int(key)]
    if isinstance(value, dict) and key in value:
        return value[key]
    raise KeyError(key)


def _size(value: object) -> int:
    """The number of values in a tree, its dicts and lists included."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(_size, items))
