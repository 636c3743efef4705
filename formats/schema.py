"""Checks a value of JSON against a JSON Schema, of which it reads the few keywords that this project's schema uses."""

import json
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

from reknob.runtime.errors import UsageError
from reknob.runtime.files import read_json

#: Deepest nesting of lists and objects.
MOST_LEVELS = 50
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}


@cache
def read_schema(path: Path) -> dict:
    """A schema file of this project."""
    return read_json(path)


def check_schema(value: object, schema: dict) -> None:
    """Raises UsageError, naming the place and what is allowed there, where a value does not agree with a schema.

    Stricter than the schema in two ways: numbers are finite, and nesting is at most MOST_LEVELS deep.
    """
    _check_depth(value)
    _check(value, schema, schema, "")


def _check_depth(value: object) -> None:
    # Level by level, not by recursion, which a file could exhaust.
    level = [value]
    for _ in range(MOST_LEVELS + 1):
        level = [item for each in level for item in _items(each)]
        if not level:
            return
    raise UsageError(f"nested deeper than {MOST_LEVELS} levels")


def _items(value: object) -> list:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _check(value: object, schema: dict, root: dict, place: str) -> None:
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    if "anyOf" in schema:
        _check_any(value, schema, root, place)
    expected = schema.get("description", "")
    types = schema.get("type")
    if types is not None and not any(_is_type(value, one) for one in ([types] if isinstance(types, str) else types)):
        words = types if isinstance(types, str) else " or ".join(types)
        raise _refused(place, value, expected or f"expected {words}")
    if isinstance(value, float) and not math.isfinite(value):
        raise _refused(place, value, "expected a finite number")
    if not _is_allowed(value, schema):
        raise _refused(place, value, expected or f"allowed: {_allowed(schema)}")
    if isinstance(value, dict):
        _check_object(value, schema, root, place)
    elif isinstance(value, list) and "items" in schema:
        for i, item in enumerate(value):
            _check(item, schema["items"], root, f"{place}[{i}]")


def _check_any(value: object, schema: dict, root: dict, place: str) -> None:
    for one in schema["anyOf"]:
        try:
            return _check(value, one, root, place)
        except UsageError as error:
            # The first mistake inside the alternative that the value was meant for says more than that none fits.
            if isinstance(value, (dict, list)) and not str(error).startswith(f"{place}: "):
                raise
    raise _refused(place, value, schema.get("description", "fits none of the allowed forms"))


def _check_object(value: dict, schema: dict, root: dict, place: str) -> None:
    known = schema.get("properties", {})
    missing = [name for name in schema.get("required", ()) if name not in value]
    if missing:
        raise UsageError(f"{place + ': ' if place else ''}lacks {', '.join(missing)}")
    others = schema.get("additionalProperties", True)
    for name, item in value.items():
        here = f"{place}.{name[:80]}" if place else name[:80]
        if name in known:
            _check(item, known[name], root, here)
            continue
        _check(name, schema.get("propertyNames", {}), root, f"the name {name[:80]!r}")
        if others is False:
            raise UsageError(f"{here}: unknown; known: {', '.join(known)}")
        if isinstance(others, dict):
            _check(item, others, root, here)


def _is_type(value: object, name: str) -> bool:
    if isinstance(value, bool) and name != "boolean":
        return False
    # As in JSON Schema, 3.0 is an integer.
    is_whole = isinstance(value, float) and value.is_integer()
    return isinstance(value, _TYPES[name]) or (name == "integer" and is_whole)


def _is_allowed(value: Any, schema: dict) -> bool:  # noqa: ANN401 - any value of JSON
    """Whether a value of the right type agrees with the keywords that restrict it."""
    if ("const" in schema and value != schema["const"]) or ("enum" in schema and value not in schema["enum"]):
        return False
    if isinstance(value, str):
        fits = len(value) <= schema.get("maxLength", math.inf)
        return fits and ("pattern" not in schema or re.search(schema["pattern"], value) is not None)
    if isinstance(value, list):
        return schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", math.inf)
    if isinstance(value, dict):
        return len(value) <= schema.get("maxProperties", math.inf)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return schema.get("minimum", -math.inf) <= value <= schema.get("maximum", math.inf)
    return True


def _allowed(schema: dict) -> str:
    keywords = ("const", "enum", "pattern", "maxLength", "minItems", "maxItems", "maxProperties", "minimum", "maximum")
    return ", ".join(f"{key} {json.dumps(schema[key])}" for key in keywords if key in schema)


def _refused(place: str, value: object, reason: str) -> UsageError:
    shown = f"a {type(value).__name__}" if isinstance(value, (dict, list)) else repr(value)
    return UsageError(f"{place or 'the document'}: {shown if len(shown) <= 60 else shown[:60] + '…'}: {reason}")
