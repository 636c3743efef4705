"""The certainty of a run's parameters, certainty.json: an interval and a word for each.

    {"comp.cmp_ratio": {"low": 2.1, "high": 2.9, "word": "found"}, …}

Parameters that are arrays have lists, nested as their shapes.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

from reknob.runtime.errors import UsageError
from reknob.runtime.files import read_json, write_text

CERTAINTY = "certainty.json"
FOUND, BOUNDED, UNKNOWN = WORDS = ("found", "bounded", "not identifiable")
MOST_DIMENSIONS = 8
LARGEST = sys.float_info.max

Numbers: TypeAlias = "float | list[Numbers]"
Words: TypeAlias = "str | list[Words]"


@dataclass(frozen=True)
class Certainty:
    """An interval that holds the true value with a probability of 68 %, in the parameter's unit, and a word.

    The word is "found"; "bounded", where the interval is wide or reaches an end of the range; "not identifiable", where
    the sound says hardly more than the range does.
    """

    low: Numbers
    high: Numbers
    word: Words


def write_certainty(folder: Path, certainty: dict[str, Certainty]) -> None:
    """Writes the certainty of a run's parameters, by name, into its folder."""
    write_text(folder / CERTAINTY, json.dumps({name: asdict(each) for name, each in certainty.items()}, indent=1))


def read_certainty(folder: Path) -> dict[str, Certainty]:
    """The certainty of a run's parameters by name; empty where the run has none.

    UsageError naming the file and the parameter for anything else than intervals and words.
    """
    path = folder / CERTAINTY
    if not path.exists():
        return {}
    content = read_json(path)
    for name, entry in content.items():
        problem = _problem(entry)
        if problem:
            raise UsageError(
                f"{path}: {name[:80]} {problem}; expected low, high (numbers) and word ({', '.join(WORDS)})"
            )
    return {name: Certainty(entry["low"], entry["high"], entry["word"]) for name, entry in content.items()}


def _problem(entry: object) -> str:
    """What is wrong with the entry of one parameter; "" if nothing is."""
    if not isinstance(entry, dict) or entry.keys() != {"low", "high", "word"}:
        return "is not an interval with a word"
    return _wrong_item(entry["low"], entry["high"], entry["word"])


def _wrong_item(low: object, high: object, word: object, depth: int = 0) -> str:
    if isinstance(low, list) and isinstance(high, list) and isinstance(word, list):
        if not len(low) == len(high) == len(word) or depth == MOST_DIMENSIONS:
            return "has lists of different lengths, or too many dimensions"
        wrong = (_wrong_item(*items, depth + 1) for items in zip(low, high, word, strict=True))
        return next(filter(None, wrong), "")
    ends = [end for end in (low, high) if isinstance(end, (int, float)) and not isinstance(end, bool)]
    if len(ends) < 2 or not all(-LARGEST <= end <= LARGEST for end in ends) or ends[0] > ends[1]:
        return "has an end that is no finite number, or a low end above the high one"
    return "" if word in WORDS else "has another word"
