"""Settings, chains and presets with any values, drawn by hypothesis, which shortens what fails."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import main
from reknob.afx import options
from reknob.afx.effect import Effect, Knobs, flatten
from reknob.afx.param import Linear, Param
from reknob.afx.registry import EFFECTS, build
from reknob.fitting.settings import FitSettings
from reknob.formats.applied import realtime_form
from reknob.formats.preset_document import PresetDocument, document_text, read_document
from reknob.runtime.errors import UsageError
from reknob.runtime.settings import options_of
from reknob.runtime.trees import parse_yaml, yaml_text

SR = 44100
MOST = 2000  # of the length of a response and the like
# The same examples in every run, without a clock, which a busy machine would exceed.
examples = settings(
    max_examples=200, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
TEXT = st.text(st.characters(exclude_categories=())) | st.from_regex(r"[-+]?0?\d*\.?\d*(e[-+]?\d+)?", fullmatch=True)
NUMBERS = st.integers(-3, 50) | st.floats(0, 100) | st.floats() | st.sampled_from((10**400, 2**63))
ODD = st.none() | st.booleans() | NUMBERS | TEXT | st.lists(NUMBERS, max_size=3)
EVERY_TYPE = (None, True, -(10**400), math.inf, "1e400", [[]], {"": {}})
NAMES = st.sampled_from(("a", "b", "eq", "comp", "gain", "skip", "x y"))


def chains() -> st.SearchStrategy:
    """Effects with any of their options and parameters, and chains of them."""
    return st.sampled_from(sorted(EFFECTS)).flatmap(configuration)


def configuration(key: str) -> st.SearchStrategy:
    """An effect, odd in places."""
    kind = EFFECTS[key]
    entries = {name: value_of(bound) for name, bound in kind.options.items()}
    entries |= {p.name: override(p) for p in kind.params}
    known = st.fixed_dictionaries({"effect": st.just(key)}, optional=entries)
    if not kind.holds_effects:
        return known
    inside = st.dictionaries(NAMES, mostly(st.deferred(chains)), max_size=3)
    return st.tuples(inside, known).map(lambda pair: pair[0] | pair[1])


def mostly(allowed: st.SearchStrategy) -> st.SearchStrategy:
    """Odd values, but most of the time allowed ones, as a chain of many odd values is refused at the first."""
    return st.sampled_from((*[allowed] * 19, ODD)).flatmap(lambda values: values)


def value_of(bound: options.Bound) -> st.SearchStrategy:
    """Values of an option."""
    match bound:
        case options.Number():
            return mostly(st.floats(bound.lo, min(bound.hi, MOST)))
        case options.Integer():
            return mostly(st.integers(bound.lo, min(bound.hi, MOST)))
        case options.Integers():
            return mostly(st.lists(st.integers(bound.lo, min(bound.hi, MOST)), min_size=1, max_size=4))
        case options.Flag():
            return mostly(st.booleans())
        case options.Choice():
            return mostly(st.sampled_from(bound.known))
    return mostly(st.deferred(chains))


def override(p: Param) -> st.SearchStrategy:
    """A default of a parameter, and a range around it."""
    if not isinstance(p.mapping, Linear):
        return mostly(st.fixed_dictionaries({"default": mostly(st.floats(-1, 1))}))
    numbers = st.lists(st.floats(p.mapping.lo, p.mapping.hi), min_size=3, max_size=3, unique=True).map(sorted)
    return mostly(numbers.map(lambda n: {"default": n[1], "range": [n[0], n[2]]}))


def refused(message: object) -> None:
    """In one line."""
    assert "\n" not in str(message)
    assert len(str(message)) < 2000


def built(config: dict) -> Effect | None:
    """The chain, if it is one; it has to be refused in a line otherwise."""
    try:
        return build(config, SR)
    except UsageError as error:
        refused(error)
        return None


@pytest.mark.parametrize("key", sorted(EFFECTS))
def test_an_odd_value_of_any_option_or_parameter_is_refused(key: str) -> None:
    kind = EFFECTS[key]
    for name in ("effect", *kind.options, *(p.name for p in kind.params)):
        for odd in EVERY_TYPE:
            for value in (odd, {"default": odd}, {"range": [0, odd]}):
                built({"effect": key, name: value})
                built(realtime_form({"effect": key, name: value}))


def test_an_odd_value_of_any_setting_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    for name in options_of(FitSettings):
        for odd in EVERY_TYPE:
            changed: dict = {"dry": "nowhere.wav", "wet": "nowhere.wav"}
            group, _, last = name.rpartition(".")
            (changed.setdefault(group, {}) if group else changed)[last] = odd
            file.write_text(yaml_text(changed))
            try:
                main.read_settings([f"--config={file}"])
            except UsageError as error:
                refused(error)


@examples
@given(st.dictionaries(TEXT, ODD | st.dictionaries(TEXT, ODD, max_size=2), max_size=2))
def test_settings_are_read_as_they_were_written(tree: dict) -> None:
    assert repr(parse_yaml(yaml_text(tree))) == repr(tree)


@examples
@given(chains())
def test_a_chain_is_built_or_refused_and_its_values_are_read_as_they_were_written(tmp_path: Path, config: dict) -> None:
    effect = built(config)
    if effect is None or not list(effect.walk()):
        return
    knobs = Knobs(effect, torch.Generator().manual_seed(0)).requires_grad_(False)
    values = flatten(knobs())
    assert all(value.isfinite().all() for value in values.values())
    path = tmp_path / "preset.json"
    path.write_text(document_text(PresetDocument(config, SR, None, values, knobs.state_dict())))
    read = flatten(read_document(path).tensors())
    assert read.keys() == values.keys()
    assert [name for name, value in values.items() if not torch.equal(read[name], value)] == []
