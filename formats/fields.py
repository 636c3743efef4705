"""The fields of the JSON files of runs and preset sets, and a reader that validates untrusted files against them."""

from collections.abc import Callable, Set
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from reknob.runtime.errors import UsageError
from reknob.runtime.files import TEXT_BYTES, read_json

MOST_SAMPLES = 1 << 40  # of a shift: 289 days at 44.1 kHz
MOST_NUMBERS = 1 << 20  # of one parameter


class Field(NamedTuple):
    """One field: its reader, which raises TypeError, ValueError or OverflowError, and the allowed values in words."""

    read: Callable[[object], object]
    allowed: str


def read_fields(path: Path, fields: dict[str, Field], needed: Set[str] = frozenset(), most: int = TEXT_BYTES) -> dict:
    """The declared fields of a JSON file of at most `most` bytes, converted by their readers; None for absent ones,
    undeclared ones ignored.

    UsageError naming the file and the field where one of `needed` is absent or a value is not allowed.
    """
    content = read_json(path, most)
    missing = sorted(needed - content.keys())
    if missing:
        raise UsageError(f"{path}: lacks {', '.join(missing)}")
    values = dict.fromkeys(fields)
    for name in [name for name in fields if name in content]:
        try:
            values[name] = fields[name].read(content[name])
        except (TypeError, ValueError, OverflowError) as error:
            problem = error if isinstance(error, _WrongItem) else f"is {_shown(content[name])}"
            raise UsageError(f"{path}: {name} {problem}; expected {fields[name].allowed}") from None
    return values


class _WrongItem(ValueError):
    """The message on a wrong item of a list."""


def _text(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise TypeError
    return value


def _int_or_float(value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError
    return value


def _number(value: object) -> float:
    return float(_int_or_float(value))


def _numbers(values: object) -> list[float]:
    # At once where there is nothing to complain of, as runs hold hundreds of losses and sets read many runs.
    if isinstance(values, list) and set(map(type, values)) <= {int, float}:
        with suppress(OverflowError):
            return list(map(float, values))
    return _list_of(_number)(values)


def _whole_number(value: object) -> int:
    number = _int_or_float(value)
    if not float(number).is_integer():
        raise ValueError
    return int(number)


def _shift(value: object) -> int:
    if abs(_number(value)) > MOST_SAMPLES:
        raise ValueError
    return _whole_number(value)


def _shape(value: object) -> list[int]:
    sizes = _list_of(_whole_number)(value)
    if len(sizes) > 8 or any(not 0 <= size <= MOST_NUMBERS for size in sizes):
        raise ValueError
    return sizes


def _date(value: object) -> datetime:
    """A date in local time, without a zone, as the dates that users give are compared with it."""
    date = datetime.fromisoformat(_text(value))
    return date.astimezone().replace(tzinfo=None) if date.tzinfo else date


def _null_or(read: Callable[[object], object]) -> Callable[[object], object]:
    return lambda value: None if value is None else read(value)


def _list_of(read: Callable[[object], object]) -> Callable[[object], list]:
    def read_all(values: object) -> list:
        if not isinstance(values, list):
            raise TypeError
        items = []
        for value in values:
            try:
                items.append(read(value))
            except (TypeError, ValueError, OverflowError):
                raise _WrongItem(f"holds {_shown(value)} at place {len(items)}") from None
        return items

    return read_all


def _numbers_by_name(value: object) -> dict[str, float]:
    if not isinstance(value, dict):
        raise TypeError
    return {_text(name): _number(number) for name, number in value.items()}


def _lists_by_name(value: object) -> dict[str, list[float]]:
    if not isinstance(value, dict):
        raise TypeError
    return {_text(name): _numbers(numbers) for name, numbers in value.items()}


def _shown(value: object) -> str:
    """A value in at most about 40 characters, for a message."""
    if isinstance(value, (list, dict)):
        return f"a {type(value).__name__}"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


#: meta.json of a run, ours or published. That of a run that was killed lacks the fields written at its end.
RUN_RECORD = {
    "created": Field(_date, "a date, as 2024-09-17T12:00:00"),
    "input_path": Field(_text, "a path"),
    "target_path": Field(_text, "a path"),
    "alignment_shift": Field(_shift, "a whole number of samples"),
    "losses": Field(_numbers, "a list of numbers"),
    "terminated_by": Field(_null_or(_text), "text or null"),
}
#: What else it holds, read by `formats.runs.load_row` only.
RUN_RAWS = {"raws": Field(_null_or(_lists_by_name), "lists of numbers by name, or null")}
#: info.json of a preset set, ours or published.
PRESET_SET = {
    "params_keys": Field(_list_of(_text), "a list of names"),
    "params_original_shapes": Field(_list_of(_shape), "a list of shapes, as [[], [6, 6]]"),
    "dry_files": Field(_list_of(_text), "a list of paths"),
    "wet_files": Field(_list_of(_text), "a list of paths"),
    "alignment_shifts": Field(_list_of(_shift), "a list of whole numbers of samples"),
    "runs": Field(_list_of(_text), "a list of paths"),
    "alignment": Field(_text, "crop or roll"),
}
#: effects.json of a run.
EFFECTS_RECORD = {
    "costs": Field(_numbers_by_name, "numbers by name"),
    "removed": Field(_numbers_by_name, "numbers by name"),
    "loss_before": Field(_number, "a number"),
    "loss": Field(_number, "a number"),
    "tolerance": Field(_number, "a number"),
}
