"""Preset documents, `preset.json`: a chain with one set of values, and where they come from, as one JSON file.

`preset.schema.json` declares the format. A document from anybody runs no code: it names effects by key, its size, depth
and counts are bounded, and no name in it is used as a path.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reknob.afx.effect import Effect, Knobs, Tensors, Values, flatten, nest
from reknob.afx.param import Bounded, Param
from reknob.afx.registry import build, parse_chain
from reknob.formats.schema import check_schema, read_schema
from reknob.runtime.errors import UsageError
from reknob.runtime.files import input_path, read_json, write_text

DOCUMENT, FORMAT = "preset.json", "reknob-preset/1"
SCHEMA = Path(__file__).with_name("preset.schema.json")
MOST_BYTES = 1 << 22
EQUALISER = "peq"  # the word of blind estimation whose bands are named like those of chain files
#: A raw parameter is used where it gives the value that stands beside it, to the rounding of float32: a value that
#: somebody has changed takes the place of its raw parameter.
RELATIVE, ABSOLUTE = 1e-5, 1e-6
LICENCE_OF_A_FIT = "Numbers fitted to recordings, which are not part of this file and keep their own licence."
LICENCE_OF_A_SET = "A row of a preset set; the terms of that set apply."


@dataclass(frozen=True)
class PresetDocument:
    """A chain with one set of values.

    Args:
        chain: its configuration, as in a chain file; or words of blind estimation ("peq_comphalf").
        sr: sample rate in Hz.
        lufs: loudness in LUFS that the input is brought to; None for any.
        values: in the declared units, by full name ("comp.attack"), of the declared shapes.
        raws: raw parameters by full name, of those values that have one recorded.
        certainty: by full name, {"low": …, "high": …, "word": "found", "bounded" or "not identifiable"}; the optional
            text "note" says what the interval is.
        alignment: "shift", samples by which dry was delayed, and "polarity", the sign of each channel of wet.
        losses: numbers by name.
        provenance: text and numbers by name; "inputs" and "versions" are mappings.
    """

    chain: dict | str
    sr: int
    lufs: float | None
    values: Tensors = field(repr=False)
    raws: Tensors = field(default_factory=dict, repr=False)
    name: str = ""
    certainty: dict[str, dict] = field(default_factory=dict, repr=False)
    alignment: dict[str, Any] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    licence: str = ""

    @cached_property
    def effect(self) -> Effect:
        """The chain, in evaluation mode; UsageError where it cannot be built."""
        return build_chain(self.chain, self.sr).eval()

    def tensors(self) -> Values:
        """The values as the chain takes them; parameters that presets do not store have their defaults."""
        return values_of(self.effect, self.values, self.raws)

    def with_values(self, values: Values, changes: str = "") -> "PresetDocument":
        """A document with other values of the chain; those that stay keep their raw parameters and their certainty.

        `changes` says in words what was changed, for its provenance.
        """
        before, after = flatten(self.tensors()), flatten(values)
        same = {name for name in self.values if torch.equal(before[name], after[name].to(before[name]))}
        return replace(
            self,
            values={name: after[name].detach() for name in self.values},
            raws={name: raw for name, raw in self.raws.items() if name in same},
            certainty={name: entry for name, entry in self.certainty.items() if name in same},
            provenance=self.provenance | ({"changes": changes[:500]} if changes else {}),
        )


def is_document(path: str | Path) -> bool:
    """Whether a path names a preset document, by its suffix."""
    return Path(path).suffix.lower() == ".json"


def build_chain(chain: dict | str, sr: int) -> Effect:
    """The chain of a document; UsageError where it names an unknown effect, or none."""
    effect = parse_chain(chain, sr, "analysis") if isinstance(chain, str) else build(chain, sr)
    if not list(effect.walk()):
        raise UsageError("chain: it has no effect with parameters")
    return effect


def values_of(effect: Effect, values: Tensors, raws: Tensors) -> Values:
    """Values by full name as a tree for `effect`: from the raw parameter where that gives the value, else as given."""
    tree = flatten(Knobs(effect, torch.Generator().manual_seed(0)).requires_grad_(False)())
    for name, p in effect.walk():
        if name in values:
            fitted = p.mapping.value(raws[name]) if name in raws else None
            same = fitted is not None and _agrees(fitted, values[name])
            tree[name] = fitted if fitted is not None and same else values[name].to(tree[name])
    return nest(tree)


def raws_of(effect: Effect, document: PresetDocument, seed: int = 0) -> dict[str, Tensor]:
    """Raw parameters of `effect` to start a fit with: those of the document, the defaults where it has none.

    A value at an end of its range, where no finite raw parameter leads, is moved inside by 1 % of the range. The
    equaliser of an estimate gives its values, within their ranges, to the effect's bands of the same names.

    Raises UsageError where effect and document share no parameter, or one of another shape or out of its range.
    """
    raws = Knobs(effect, torch.Generator().manual_seed(seed)).state_dict()
    values = _estimated_bands(effect, document) | document.values
    shared = [(name, p) for name, p in effect.walk() if name in values]
    if not shared:
        raise UsageError("the chain has none of its parameters; is it of another chain?")
    for name, p in shared:
        value, given = values[name], document.raws.get(name)
        _check_value(p, name, value)
        if given is not None and given.shape == raws[name].shape and _agrees(p.mapping.value(given), value):
            raws[name] = given.to(raws[name])
            continue
        raws[name] = _raw(p, name, value).to(raws[name])
    return raws


def _estimated_bands(effect: Effect, document: PresetDocument) -> Tensors:
    """An estimate's values of the equaliser's bands that `effect` has, by its names: peq.peak1.gain as peak1.gain."""
    if not isinstance(document.chain, str):
        return {}
    found: Tensors = {}
    for name, p in effect.walk():
        value = document.values.get(f"{EQUALISER}.{name}")
        if value is not None and isinstance(p.mapping, Bounded):
            value = p.mapping.from_unit(p.mapping.to_unit(value).clamp(0, 1))
        if value is not None:
            found[name] = value
    return found


def _raw(p: Param, name: str, value: Tensor) -> Tensor:
    """The raw parameter of a value, moved inside its range; UsageError where there is none, as for a reflection."""
    if isinstance(p.mapping, Bounded):
        value = p.mapping.from_unit(p.mapping.to_unit(value).clamp(0.01, 0.99))
    try:
        raw = p.mapping.raw(value)
    except RuntimeError:  # of torch.linalg: a matrix without a logarithm
        raw = torch.full_like(value, torch.nan)
    if not raw.isfinite().all() or not torch.allclose(p.mapping.value(raw), value, 1e-3, 1e-3):
        raise UsageError(f"{name}: a fit cannot start from its value, which no finite raw parameter gives; change it")
    return raw


def _agrees(fitted: Tensor, value: Tensor) -> bool:
    return fitted.shape == value.shape and torch.allclose(fitted.double(), value.double(), RELATIVE, ABSOLUTE)


def read_document(path: str | Path) -> PresetDocument:
    """A preset document; UsageError naming the file and the place of what is missing, unknown or out of range."""
    path = input_path(path)
    content = read_json(path, MOST_BYTES)
    try:
        return parse_document(content)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def parse_document(content: dict) -> PresetDocument:
    """A preset document from the object of its JSON; UsageError naming the place of a mistake."""
    if content.get("format") != FORMAT and str(content.get("format")).startswith("reknob-preset/"):
        raise UsageError(
            f"has the format {str(content['format'])[:40]!r}, this version reads {FORMAT!r}: update reknob"
        )
    check_schema(content, read_schema(SCHEMA))
    chain = content["chain"]
    if isinstance(chain, dict):
        chain = _in_order(chain, {name: i for i, name in enumerate(content.get("order", ()))})
    declared = {name: p for name, p in build_chain(chain, int(content["sr"])).walk() if p.preset}
    given = content["values"]
    missing = [name for name in declared if name not in given]
    # The unknown name first: a misspelt one is unknown and missing, and the spelling is the mistake.
    for name in given:
        if name not in declared:
            close = get_close_matches(name, declared, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UsageError(f"values.{name[:80]}: the chain has no such parameter{hint}")
    if missing:
        raise UsageError(f"values: lacks {', '.join(missing[:5])}; is it of another chain?")
    values = {name: _value(p, name, given[name]) for name, p in declared.items()}
    raws = {
        name: _tensor(p, f"raw.{name}", content["raw"][name]).float()
        for name, p in declared.items()
        if name in content.get("raw", {})
    }
    return PresetDocument(
        chain,
        int(content["sr"]),
        content["lufs"],
        values,
        raws,
        content.get("name", ""),
        {name: content["certainty"][name] for name in declared if name in content.get("certainty", {})},
        content.get("alignment", {}),
        content.get("losses", {}),
        content.get("provenance", {}),
        content.get("licence", ""),
    )


def _in_order(chain: dict, order: dict[str, int], prefix: str = "") -> dict:
    """A configuration with its effects in the given order, as a program may have sorted the names of the file."""
    last = len(order)
    names = sorted(chain, key=lambda name: order.get(prefix + name, last))
    return {
        name: _in_order(chain[name], order, f"{prefix}{name}.") if isinstance(chain[name], dict) else chain[name]
        for name in names
    }


def _value(p: Param, name: str, entry: Mapping) -> Tensor:
    if entry["unit"] != p.unit:
        raise UsageError(f"values.{name}: the unit {entry['unit']!r} is not that of the parameter, {p.unit!r}")
    value = _tensor(p, f"values.{name}", entry["value"])
    _check_value(p, f"values.{name}", value)
    return value


def _check_value(p: Param, name: str, value: Tensor) -> None:
    if value.shape != p.shape:
        raise UsageError(f"{name}: has the shape {list(value.shape)}; the chain declares {list(p.shape)}")
    p.check(value, name)


def _tensor(p: Param, name: str, numbers: object) -> Tensor:
    """A number or nested lists of the declared shape, in float64."""
    try:
        tensor = torch.tensor(numbers, dtype=torch.float64)
    except (ValueError, TypeError, OverflowError, RuntimeError):
        raise UsageError(f"{name}: its lists are of different lengths, or a number is too large") from None
    if tensor.shape != p.shape:
        raise UsageError(f"{name}: has the shape {list(tensor.shape)}; the chain declares {list(p.shape)}")
    # In float32 chains compute.
    if not tensor.float().isfinite().all():
        raise UsageError(f"{name}: a number is too large")
    return tensor


def write_document(path: str | Path, document: PresetDocument) -> None:
    """Writes a preset document; UsageError where it would be larger than what `read_document` reads."""
    text = document_text(document)
    if len(text) > MOST_BYTES:
        raise UsageError(f"{path}: the preset would have {len(text) / 1e6:.0f} MB; at most {MOST_BYTES / 1e6:.0f}")
    write_text(path, text)


def document_text(document: PresetDocument) -> str:
    """The JSON of a document, one parameter a line."""
    chain = document.chain if isinstance(document.chain, str) else without_empty(document.chain)
    declared = {name: p for name, p in document.effect.walk() if p.preset}
    values = flatten(document.tensors())
    order = [] if isinstance(chain, str) else _effect_names(document.effect)
    parts: dict[str, object] = {
        "format": FORMAT,
        "name": document.name,
        "sr": document.sr,
        "lufs": document.lufs,
        "chain": chain,
        "order": order,
        "values": {name: {"value": _numbers(values[name]), "unit": p.unit} for name, p in declared.items()},
        "certainty": document.certainty,
        "alignment": document.alignment,
        "losses": document.losses,
        "provenance": document.provenance,
        "licence": document.licence,
        "raw": {name: _numbers(document.raws[name]) for name in declared if name in document.raws},
    }
    lines = [f"{json.dumps(key)}: {_shown(part)}" for key, part in parts.items() if part not in ("", {}, [])]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def without_empty(chain: dict) -> dict:
    """A configuration without the entries that are null, which `build` ignores."""
    return {
        name: without_empty(value) if isinstance(value, dict) else value
        for name, value in chain.items()
        if value is not None
    }


def _effect_names(effect: Effect, prefix: str = "") -> list[str]:
    names = []
    for name, part in effect.parts():
        names += [prefix + name, *_effect_names(part, f"{prefix}{name}.")]
    return names


def _shown(part: object) -> str:
    """JSON in one line, of an object one line an entry."""
    if not isinstance(part, dict) or not part:
        return json.dumps(part, ensure_ascii=False, allow_nan=False)
    entries = (
        f"  {json.dumps(key, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"
        for key, value in part.items()
    )
    return "{\n" + ",\n".join(entries) + "\n}"


def _numbers(tensor: Tensor) -> Any:  # noqa: ANN401 - a number, or lists of them
    """A tensor as numbers, each in the fewest digits that give it back."""
    array = tensor.detach().cpu().numpy()
    if array.dtype != np.float32:
        return array.tolist()
    return np.array([float(str(number)) for number in array.ravel()]).reshape(array.shape).tolist()
