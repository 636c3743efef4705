"""Preset documents: the round trip, what they refuse, the schema file, and values changed on their way."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import reknob
from reknob.afx.amount import unmoved, with_amount
from reknob.afx.effect import Effect, Knobs, Values, flatten
from reknob.afx.param import Uniform
from reknob.afx.registry import EFFECTS, build, parse_chain
from reknob.formats.as_document import open_preset
from reknob.formats.changes import changed
from reknob.formats.preset_document import (
    FORMAT,
    SCHEMA,
    PresetDocument,
    document_text,
    parse_document,
    raws_of,
    read_document,
    write_document,
)
from reknob.formats.schema import check_schema, read_schema
from reknob.runtime.errors import UsageError
from scripts import estimate, presets

ROOT = Path(__file__).parents[1]
SR = 44100
CONFIG = {"eq": {"effect": "peak"}, "cut": {"effect": "low_pass"}, "comp": {"effect": "compressor_expander"}}


def document(config: dict = CONFIG, seed: int = 0) -> PresetDocument:
    """A preset of values that a fit could have found."""
    chain, generator = build(config, SR), torch.Generator().manual_seed(seed)
    knobs = Knobs(chain, generator).requires_grad_(False)
    raws = {name: raw + 0.3 * torch.randn(raw.shape, generator=generator) for name, raw in knobs.state_dict().items()}
    knobs.load_state_dict(raws)
    stored = [name for name, p in chain.walk() if p.preset]
    values = flatten(knobs())
    return PresetDocument(config, SR, -18.0, {n: values[n] for n in stored}, {n: raws[n] for n in stored}, name="voice")


def content(config: dict = CONFIG) -> dict:
    return json.loads(document_text(document(config)))


@pytest.mark.parametrize("key", [key for key in EFFECTS if key not in ("serial", "sends")])
def test_every_effect_makes_the_round_trip_to_the_bit(key: str) -> None:
    inside = {"comp": {"effect": "compressor"}} if key == "parallel" else {}
    before = document({"one": {"effect": key, **inside}})
    after = parse_document(json.loads(document_text(before)))
    assert {n: v.dtype for n, v in flatten(after.tensors()).items()} == {
        n: v.dtype for n, v in flatten(before.tensors()).items()
    }
    assert all(torch.equal(after.raws[name], raw) for name, raw in before.raws.items())
    values = flatten(after.tensors())
    assert all(torch.equal(values[name], value) for name, value in before.values.items())
    assert all(torch.equal(raws_of(after.effect, after)[name], raw) for name, raw in before.raws.items())


def test_a_row_of_a_set_becomes_a_document_that_renders_the_same(tmp_path: Path) -> None:
    path = tmp_path / "preset.json"
    own = str(ROOT / "presets" / "own")
    assert presets.main(["document", own, "3", str(path)]) == 0
    row, read = open_preset(own, 3), read_document(path)
    assert all(torch.equal(read.raws[name], raw) for name, raw in row.raws.items())
    assert reknob.load_preset(path).values == reknob.load_preset(own, row=3).values
    assert read.name == row.name and read.alignment == row.alignment and "terms of that set" in read.licence


def test_what_is_beside_the_values_is_kept_and_certainty_is_optional(tmp_path: Path) -> None:
    known = {
        "comp.cmp_ratio": {"low": 2.5, "high": 4.0, "word": "found"},
        "eq.Q": {"low": None, "high": None, "word": "not identifiable", "note": "the gain is 0 dB"},
    }
    facts = {"seed": 3, "inputs": {"dry": {"file": "dry.wav", "sha256": "0" * 64}}, "versions": {"reknob": "1"}}
    given = replace(
        document(),
        certainty=known,
        losses={"lowest": 0.5},
        provenance=facts,
        alignment={"shift": -3, "polarity": [1, -1]},
    )
    write_document(tmp_path / "preset.json", given)
    read = read_document(tmp_path / "preset.json")
    kept = ("certainty", "losses", "provenance", "alignment", "name", "sr", "lufs", "licence", "chain")
    assert all(getattr(read, name) == getattr(given, name) for name in kept)
    assert "certainty" not in content()


def test_a_value_changed_in_the_file_takes_the_place_of_its_raw_parameter() -> None:
    text = content()
    text["values"]["eq.gain"]["value"] = 4.5
    read = parse_document(text)
    assert float(flatten(read.tensors())["eq.gain"]) == 4.5
    assert float(raws_of(read.effect, read)["eq.gain"]) == 4.5
    assert torch.equal(raws_of(read.effect, read)["eq.freq"], read.raws["eq.freq"])


def test_effects_run_in_their_order_where_a_program_has_sorted_the_names() -> None:
    read = parse_document(json.loads(json.dumps(content(), sort_keys=True)))
    assert [name for name, _ in read.effect.parts()] == ["eq", "cut", "comp"]


WRONG = [
    (("format", "reknob-preset/2"), "has the format 'reknob-preset/2', this version reads 'reknob-preset/1'"),
    (("format", "mine"), "format: 'mine': expected \"reknob-preset/1\""),
    (("sr", 100), "sr: 100: expected a sample rate"),
    (("lufs", "loud"), "lufs: 'loud': expected the loudness"),
    (("chain", {"eq": {"effect": "../../etc/passwd"}}), "unknown effect '../../etc/passwd'"),
    (("chain", {"../eq": {"effect": "peak"}}), "an effect cannot be called '../eq'"),
    (("chain", "peq_nothing"), "unknown effect 'nothing'"),
    (("chain", 3), "chain: 3: expected effects by name"),
    (("values.eq.gain.value", [1, 2]), "values.eq.gain: has the shape [2]; the chain declares []"),
    (("values.eq.gain.value", True), "values.eq.gain.value: True: expected a number"),
    (("values.eq.gain.value", 1e400), "values.eq.gain.value: inf: expected a number"),
    (("values.eq.gain.value", 999), "lies outside its range"),
    (("values.eq.gain.unit", "Hz"), "values.eq.gain: the unit 'Hz' is not that of the parameter, 'dB'"),
    (
        ("values.eq.gian", {"value": 1, "unit": "dB"}),
        "values.eq.gian: the chain has no such parameter; did you mean eq.ga",
    ),
    (("values.eq.gain", None), "values: lacks eq.gain"),
    (("raw.eq.gain", [[1], [2, 3]]), "raw.eq.gain: its lists are of different lengths"),
    (("certainty", {"eq.gain": {"low": 1, "high": 2, "word": "sure"}}), "word: 'sure': expected found, bounded or"),
    (("provenance", {"inputs": {"dry": {"file": "../dry.wav"}}}), "expected the name of a file without its folder"),
    (("name", "a\nb"), "name: 'a\\nb': expected at most 200 characters without line breaks"),
    (("order", [[[]]]), "order[0]: a list: expected string"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_what_is_wrong_is_named_in_one_line(change: tuple[str, object], message: str) -> None:
    text = content()
    place, value = change
    first, _, rest = place.partition(".")
    name = rest.removesuffix(".value").removesuffix(".unit")
    if rest.endswith((".value", ".unit")):
        text[first][name][rest.rpartition(".")[2]] = value
    elif rest and value is None:
        del text[first][name]
    elif rest:
        text[first][rest] = value
    else:
        text[first] = value
    with pytest.raises(UsageError) as error:
        parse_document(text)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_strangers_file_is_refused_before_it_costs_much(tmp_path: Path) -> None:
    path = tmp_path / "preset.json"
    cases = {
        "[" * 100_000: "nested too deeply",
        json.dumps(content() | {"x": json.loads("[" * 60 + "]" * 60)}): "nested deeper than 50 levels",
        "{}": "lacks format, sr, lufs, chain, values",
        "[]": "holds a list",
        " " * (5 << 20): "has 5 MB; a file of its kind has at most 4",
        json.dumps(
            content() | {"chain": {f"e{i}": {"effect": "peak"} for i in range(300)}}
        ): "expected effects by name",
    }
    for text, message in cases.items():
        path.write_text(text)
        with pytest.raises(UsageError) as error:
            read_document(path)
        assert str(error.value).startswith(f"{path}: ") and message in str(error.value)


def mutations() -> list[dict]:
    """Documents that are right, and ones with one mistake that only the schema can find."""
    right = content() | {
        "certainty": {"eq.Q": {"low": [None, [1, 2]], "high": 3, "word": ["found"]}},
        "unknown": {"a": 1},
    }
    wrong: list[tuple[str, object]] = [
        *(("format", 1), ("sr", 44100.5), ("sr", True), ("lufs", []), ("chain", []), ("chain", "Peq"), ("order", {})),
        *(("values", []), ("values", {"a b": {"value": 1, "unit": ""}}), ("values", {"a": {"value": 1}})),
        *(("values", {"a": {"value": "1", "unit": ""}}), ("values", {"a": {"value": 1, "unit": "", "more": 1}})),
        *(("raw", {"a": [1, None]}), ("alignment", {"shift": 0.5}), ("alignment", {"polarity": [2]})),
        *(("alignment", {"polarity": []}), ("alignment", {"lag": 1}), ("certainty", {"a": {"low": 1, "high": 2}})),
        *(("certainty", {"a": {"low": "x", "high": 2, "word": "found"}}), ("losses", {"a": "x"}), ("name", "x" * 300)),
        *(("provenance", {"a": []}), ("provenance", {"inputs": {"dry": {"file": "a/b"}}}), ("licence", None)),
        *(("provenance", {"inputs": {"dry": {"file": "a", "sha256": "0"}}}), ("provenance", {"versions": {"a": 1}})),
    ]
    return [right, right | {"sr": 48000.0}, *(right | {key: value} for key, value in wrong)]


def test_the_validator_agrees_with_the_schema_file() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator, verdicts = jsonschema.Draft202012Validator(schema), []
    for text in mutations():
        try:
            check_schema(text, read_schema(SCHEMA))
            accepted = True
        except UsageError:
            accepted = False
        assert accepted == validator.is_valid(text), text
        verdicts.append(accepted)
    assert verdicts == [True, True, *[False] * (len(verdicts) - 2)]
    assert schema["properties"]["format"]["const"] == FORMAT


def test_the_validator_reads_every_keyword_that_the_schema_uses() -> None:
    known = set(
        "$schema $id $defs $ref title description type const enum anyOf required properties additionalProperties "
        "propertyNames items minItems maxItems maxProperties minimum maximum pattern maxLength".split()
    )

    def keywords(schema: object) -> set[str]:
        if not isinstance(schema, dict):
            return set()
        named = [part for key in ("properties", "$defs") for part in schema.get(key, {}).values()]
        inner = [schema.get(key) for key in ("items", "additionalProperties", "propertyNames")]
        return set(schema).union(*map(keywords, [*named, *inner, *schema.get("anyOf", [])]))

    assert keywords(json.loads(SCHEMA.read_text())) <= known


def test_an_estimate_is_a_document(tmp_path: Path) -> None:
    path = tmp_path / "preset.json"
    wet = str(ROOT / "data" / "demo" / "wet.ogg")
    assert estimate.main([wet, "--checkpoint", str(ROOT / "checkpoints" / "peq.pt"), "--preset", str(path)]) == 0
    read = read_document(path)
    assert read.chain == "peq" and read.lufs is None
    entry = read.certainty["peq.peak1.gain"]
    assert entry["low"] <= float(read.values["peq.peak1.gain"]) <= entry["high"] and "windows" in entry["note"]
    y = reknob.load_preset(path).render(torch.randn(SR, generator=torch.Generator().manual_seed(0)), SR)
    assert y.shape[-1] == SR and y.isfinite().all()


def middle(effect: Effect) -> Values:
    """Values that are off nowhere."""
    knobs = Knobs(effect, torch.Generator().manual_seed(0)).requires_grad_(False)
    for name, p in effect.walk():
        if p.unit == "dB" or isinstance(p.default, Uniform) or p.name in ("c", "taps", "weights"):
            knobs.get_parameter(name).add_(0.5)
    return knobs()


@pytest.mark.parametrize("key", EFFECTS)
def test_an_amount_leads_from_off_to_the_preset(key: str) -> None:
    config = {"effect": key} if key not in ("serial", "sends") else {"effect": key, "a": {"effect": "panning"}}
    effect = build(config, SR).eval()
    values = middle(effect)
    flat = flatten(values)
    whole = flatten(with_amount(effect, values, 1.0))
    assert all(torch.allclose(whole[name], value, rtol=1e-4, atol=1e-5) for name, value in flat.items())
    for amount in (0.0, 0.4, 2.0):
        moved = flatten(with_amount(effect, values, amount))
        for name, p in effect.walk():
            p.check(moved[name], name)
    if effect.off_values():
        off, none = flatten(effect.off(values)), flatten(with_amount(effect, values, 0.0))
        # A level in Np has no value for silence: the factor is compared.
        as_heard = {name: v.exp() if name == "level" else v for name, v in none.items()}
        expected = {name: v.exp() if name == "level" else v for name, v in off.items()}
        assert all(torch.allclose(as_heard[name], v, atol=1e-5) for name, v in expected.items())


def test_amounts_have_the_unit_of_what_they_move() -> None:
    chain = build(CONFIG, SR)
    values = changed(chain, Knobs(chain)(), ["eq.gain=-8", "comp.cmp_ratio=4", "comp.makeup=6", "cut.freq=2000"])
    half = flatten(with_amount(chain, values, 0.5))
    assert float(half["eq.gain"]) == pytest.approx(-4) and float(half["comp.makeup"]) == pytest.approx(3)
    assert float(half["cut.freq"]) == pytest.approx((2000 * 18000) ** 0.5)
    # Half of the gain reduction: 1 - 1/4 = 0.75 dB per dB becomes 0.375.
    assert float(half["comp.cmp_ratio"]) == pytest.approx(1 / (1 - 0.375))
    assert torch.equal(half["eq.freq"], flatten(values)["eq.freq"])
    assert unmoved(chain) == [] and unmoved(parse_chain("peq", SR, "analysis")) == []


def test_values_are_set_by_name_with_their_units() -> None:
    chain = build(CONFIG, SR)
    values = flatten(
        changed(chain, Knobs(chain)(), ["eq.freq=2.5kHz", "comp.attack = 0.02 s", "eq.gain=-3dB", "eq.Q=1e0"])
    )
    expected = {"eq.freq": 2500, "comp.attack": 20, "eq.gain": -3, "eq.Q": 1}
    assert {name: float(values[name]) for name in expected} == pytest.approx(expected)
    wrong = {
        "eq.freq=2.5ms": "eq.freq=2.5ms: the unit is Hz; give a number of Hz",
        "eq.freq": "--set eq.freq: give NAME=VALUE, as comp.makeup=3",
        "eq.frq=3": "did you mean 'eq.freq'?",
        "eq.Q=99": "eq.Q=99 lies outside its range; allowed: 0.2 to 20",
        "eq.Q=nan": "eq.Q=nan: give a number",
        "eq.gain=[1,2]": "eq.gain=[1,2]: give a number of dB",
    }
    for change, message in wrong.items():
        with pytest.raises(UsageError) as error:
            changed(chain, Knobs(chain)(), [change])
        assert message in str(error.value)
