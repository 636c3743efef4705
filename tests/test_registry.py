"""Chains built from keys, the published names of their parameters, and published configurations read as ours."""

import inspect
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from reknob.afx.effect import Effect, Knobs
from reknob.afx.registry import EFFECTS, build, lookup, with_changes
from reknob.formats.published import entries, feature_mask, from_published, split_vector, to_published
from reknob.formats.published_config import from_published_config, is_published
from reknob.runtime.settings import read_yaml

ROOT = Path(__file__).parents[1]
PUBLISHED_SETS = ROOT.parent / "shared" / "presets"
PRESET_KEYS = ROOT / "tests" / "golden" / "diffvox" / "preset_keys.json"
CHAINS = [*sorted((ROOT / "cfg" / "model").glob("*.yaml")), *sorted((ROOT / "presets").glob("*.yaml"))]
SR = 44100

# The full chain in the published manner.
PUBLISHED = """
_target_: torch.nn.Sequential
_args_:
  - {_target_: modules.fx.Peak, sr: "${sr}", freq: 800, Q: 0.707, gain: 0, min_freq: 33, max_freq: 5400}
  - {_target_: modules.fx.Peak, sr: "${sr}", freq: 4000, min_freq: 200, max_freq: 17500}
  - {_target_: modules.fx.LowShelf, sr: "${sr}", freq: 115, min_freq: 30, max_freq: 200}
  - {_target_: modules.fx.HighShelf, sr: "${sr}", freq: 6000, min_freq: 750, max_freq: 8300}
  - {_target_: modules.fx.LowPass, sr: "${sr}", freq: 17500, min_freq: 200, max_freq: 18000, min_Q: 0.5, max_Q: 10}
  - {_target_: modules.fx.HighPass, sr: "${sr}", freq: 200, min_freq: 16, max_freq: 5300, min_Q: 0.5, max_Q: 10}
  - _target_: modules.fx.CompressorExpander
    sr: ${sr}
    cmp_ratio: 2
    exp_ratio: 0.5
    at_ms: 50
    rt_ms: 50
    avg_coef: 0.3
    cmp_th: -18
    exp_th: -48
    make_up: 0
    lookahead: true
    max_lookahead: 15
  - _target_: modules.fx.SendFXsAndSum
    cross_send: true
    pan_direct: true
    _args_:
      - _target_: modules.fx.SurrogateDelay
        sr: ${sr}
        delay: 400
        feedback: 0.1
        gain: 0.1
        ir_duration: 4
        dropout: 0
        straight_through: true
        recursive_eq: true
        eq: {_target_: modules.fx.LowPass, freq: 8000, min_freq: 200, max_freq: 16000, min_Q: 0.5, max_Q: 2}
      - _target_: modules.fx.FDN
        sr: ${sr}
        delays: [997, 1153, 1327, 1559, 1801, 2099]
        trainable_delay: false
        num_decay_freq: 49
        delay_independent_decay: true
        ir_duration: 12
        eq:
          _target_: torch.nn.Sequential
          _args_:
            - {_target_: modules.fx.Peak, sr: "${sr}", freq: 800, min_freq: 200, max_freq: 2500, min_Q: 0.1, max_Q: 3}
            - {_target_: modules.fx.Peak, sr: "${sr}", freq: 4000, min_freq: 600, max_freq: 7000, min_Q: 0.1, max_Q: 3}
            - {_target_: modules.fx.LowShelf, sr: "${sr}", freq: 115, min_freq: 30, max_freq: 450}
            - {_target_: modules.fx.HighShelf, sr: "${sr}", freq: 8000, min_freq: 1500, max_freq: 16000}
"""


def full_chain() -> Effect:
    return build(read_yaml(ROOT / "cfg" / "model" / "diffvox.yaml"), SR)


def options(effect: Effect) -> dict[str, dict]:
    """The settings of an effect and of all its parts, by place."""
    plain = (bool, int, float, str)
    return {
        place: {key: value for key, value in vars(part).items() if isinstance(value, plain) and key[0] != "_"}
        for place, part in effect.named_modules()
    }


@pytest.mark.parametrize("key", EFFECTS)
def test_every_key_builds_an_effect_by_itself(key: str) -> None:
    effect = build({"effect": key}, SR)
    assert type(effect) is EFFECTS[key]
    assert all(raw.isfinite().all() for raw in Knobs(effect).parameters())


@pytest.mark.parametrize("render", ["sinc", "fs", "realtime"])
def test_every_form_of_the_delay_builds_at_its_defaults(render: str) -> None:
    assert all(raw.isfinite() for raw in Knobs(build({"effect": "ping_pong_delay", "render": render}, SR)).parameters())


@pytest.mark.parametrize("path", CHAINS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_chain_file_builds(path: Path) -> None:
    assert len(list(build(read_yaml(path), SR).walk())) > 5


@pytest.mark.parametrize(
    ("config", "messages"),
    [
        ({"effect": "peek"}, ["unknown effect 'peek' in 'chain'", "known: peak, low_shelf", "did you mean 'peak'?"]),
        ({"comp": {"effect": "compresor_expander"}}, ["in 'chain.comp'", "did you mean 'compressor_expander'?"]),
        ({"fx": {"effect": "sends", "a": {"effect": "fnd"}}}, ["'fnd' in 'chain.fx.a'", "did you mean 'fdn'?"]),
        ({"a": {"effect": "peak", "gian": 3}}, ["chain.a: Peak has no option 'gian'", "known: gain, freq, Q"]),
        ({"a": {"effect": "peak", "frq": {"default": 3}}}, ["chain.a: Peak has no parameter frq", "gain, freq, Q"]),
        ({"a": {"effect": "fdn", "band": 3}}, ["chain.a: FDN has no option 'band'", "delays, bands, shared_decay"]),
        ({"a": {"effect": "peak", "Q": {"range": [3, 1]}}}, ["chain.a: Q: the range [3, 1] is empty"]),
        ({"a": {"effect": "peak", "Q": {"default": 0.1}}}, ["chain.a: Q: the default 0.1", "allowed: 0.2 to 20"]),
        ({"effect": "ping_pong_delay", "render": "exact"}, ["unknown render 'exact'", "known: sinc, fs, realtime"]),
        ({"effect": "fdn", "render": "sinc"}, ["unknown render 'sinc'", "known: fs, realtime"]),
        ({"effect": "ping_pong_delay", "damping": {"default": -1}}, ["PingPongDelay has no parameter damping"]),
        ("peak", ["chain: expected an effect (effect: …), got 'peak'"]),
    ],
)
def test_a_wrong_configuration_is_refused_with_its_place_and_what_is_known(config: dict, messages: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        build(config, SR)
    assert [message for message in messages if message not in str(error.value)] == []
    assert "\n" not in str(error.value)


def test_every_option_of_every_effect_has_bounds() -> None:
    for key, kind in EFFECTS.items():
        chosen = [name for name in inspect.signature(kind.__init__).parameters if name not in ("self", "sr")]
        assert set(chosen) - {"overrides", "effects"} == set(kind.options), key


def test_changes_are_laid_over_a_chain_and_take_away_by_name() -> None:
    chain = {"a": {"effect": "peak", "Q": {"default": 2}}, "b": {"effect": "peak"}}
    changed = with_changes(chain, {"a": {"Q": None, "freq": {"default": 300}}, "b": None})
    assert changed == {"a": {"effect": "peak", "Q": None, "freq": {"default": 300}}, "b": None}
    defaults = [(name, p.default) for name, p in build(changed, SR).walk()]
    assert defaults == [("a.gain", 0), ("a.freq", 300), ("a.Q", 0.707)]
    assert chain["b"] == {"effect": "peak"}
    with pytest.raises(ValueError, match="chain.c=None: there is no 'c' to leave out; it has: a, b"):
        with_changes(chain, {"c": None})


def test_levels_of_sends_can_be_set() -> None:
    parts = {"d": {"effect": "ping_pong_delay"}, "r": {"effect": "fdn"}}
    effect = build({"effect": "sends", **parts, "d_to_r": {"default": 0.5}}, SR)
    assert effect.params[0].default == 0.5


def test_a_key_that_resembles_nothing_gets_no_suggestion() -> None:
    with pytest.raises(ValueError) as error:
        lookup({"cat": 1, "dog": 2}, "zzz", "animal")
    assert str(error.value) == "unknown animal 'zzz'; known: cat, dog"


def test_the_full_chain_has_the_published_keys_shapes_and_mask() -> None:
    published = json.loads(PRESET_KEYS.read_text())
    effect = full_chain()
    rows = [row for row in entries(effect) if row.preset]
    assert [row.theirs for row in rows] == published["params_keys"]
    assert [list(row.shape) for row in rows] == published["params_original_shapes"]
    assert "".join(str(int(kept)) for kept in feature_mask(effect)) == published["feature_mask"]


def test_an_entry_names_every_parameter_once_in_both_languages() -> None:
    effect = full_chain()
    rows = entries(effect)
    assert sorted(row.ours for row in rows) == sorted(name for name, _ in effect.walk())
    assert len({row.theirs for row in rows}) == len(rows)
    assert [row.ours for row in rows if not row.preset] == ["sends.delay.damping"]


@pytest.mark.parametrize("name", ["internal", "medleydb"])
def test_the_published_sets_have_these_keys_and_this_mask(name: str) -> None:
    folder = PUBLISHED_SETS / name
    if not folder.exists():
        pytest.skip("needs ../shared/presets")
    info, published = json.loads((folder / "info.json").read_text()), json.loads(PRESET_KEYS.read_text())
    assert info["params_keys"] == published["params_keys"]
    assert info["params_original_shapes"] == published["params_original_shapes"]
    mask = np.load(folder / "feature_mask.npy")
    assert "".join(str(int(kept)) for kept in mask) == published["feature_mask"]


def test_a_published_vector_makes_the_round_trip() -> None:
    published = json.loads(PRESET_KEYS.read_text())
    vector = torch.randn(len(published["feature_mask"]), generator=torch.Generator().manual_seed(0))
    effect = full_chain()
    state = split_vector(vector, published["params_keys"], published["params_original_shapes"])
    back = to_published(from_published(state, effect), effect)
    assert back.keys() == state.keys()
    assert torch.equal(torch.cat([back[key].reshape(-1) for key in published["params_keys"]]), vector)


def test_parameters_that_are_missing_or_of_another_size_are_named() -> None:
    effect = build({"effect": "peak"}, SR)
    state = to_published(Knobs(effect).state_dict(), effect)
    with pytest.raises(ValueError, match="lack params.gain"):
        from_published({key: value for key, value in state.items() if key != "params.gain"}, effect)
    with pytest.raises(ValueError, match=r"freq \[3\] of another size"):
        from_published({**state, "params.parametrizations.freq.original": torch.zeros(3)}, effect)
    with pytest.raises(ValueError, match="4 numbers for 2 keys of 3 numbers"):
        split_vector(torch.zeros(4), ["a", "b"], [[], [2]])


def test_a_published_configuration_gives_the_same_chain() -> None:
    tree = yaml.safe_load(PUBLISHED)
    assert is_published(tree)
    theirs, ours = build(from_published_config(tree), SR), full_chain()
    assert list(theirs.walk()) == list(ours.walk())
    assert entries(theirs) == entries(ours)
    # The delay's regulariser is a setting of the release's program, not of its chain.
    assert ours.sends.delay.regularise
    ours.sends.delay.regularise = False
    assert options(theirs) == options(ours)


def test_a_chain_file_of_ours_is_not_taken_for_a_published_one() -> None:
    assert not any(is_published(read_yaml(path)) for path in CHAINS)


@pytest.mark.parametrize(
    ("target", "key", "setting"),
    [
        ("Delay", "ping_pong_delay", {"surrogate": False, "render": "sinc"}),
        ("FSDelay", "ping_pong_delay", {"surrogate": False, "render": "fs"}),
        ("FSSurrogateDelay", "ping_pong_delay", {"surrogate": True, "render": "fs"}),
        ("RealTimeDelay", "ping_pong_delay", {"surrogate": False, "render": "realtime"}),
        ("RealTimeFDN", "fdn", {"render": "realtime"}),
        ("FDN", "fdn", {"render": "fs"}),
        ("Panning", "panning", {}),
        ("StereoWidth", "stereo_width", {}),
        ("Reverb", "noise_reverb", {"n_fft": 384, "hop": 192}),
    ],
)
def test_published_classes_become_forms_of_one_effect(target: str, key: str, setting: dict) -> None:
    effect = build(from_published_config({"_target_": f"modules.fx.{target}", "sr": SR}), SR)
    assert type(effect) is EFFECTS[key]
    assert {name: getattr(effect, name) for name in setting} == setting


def test_published_defaults_keep_their_meaning() -> None:
    pan = build(from_published_config({"_target_": "modules.fx.Panning", "pan": -100 + 1e-3}), SR)
    assert dict(pan.walk())["pan"].default == pytest.approx(0, abs=1e-4)
    comp = from_published_config({"_target_": "modules.fx.CompressorExpander", "at_ms": 12, "make_up": 3.5})
    params = dict(build(comp, SR).walk())
    assert (params["attack"].default, params["makeup"].default) == (12, 3.5)
    assert "lookahead" not in params


@pytest.mark.parametrize("target", ["os.system", "os.mkdir", "subprocess.run", "modules.fx.Peek"])
@pytest.mark.parametrize("nested", [False, True])
def test_an_unknown_class_is_refused_and_no_code_runs(target: str, nested: bool, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    config = {"_target_": target, "_args_": [os.fspath(trace)], "command": f"touch {trace}"}
    if nested:
        config = {"_target_": "torch.nn.Sequential", "_args_": [config]}
    with pytest.raises(ValueError) as error:
        from_published_config(config)
    assert str(error.value).startswith(f"unknown published effect {target.split('.')[-1]!r} in {target!r}; ")
    assert "known: Sequential" in str(error.value)
    assert not trace.exists()


def test_a_published_setting_without_a_counterpart_is_refused() -> None:
    with pytest.raises(ValueError, match="Peak has no option 'slope'"):
        build(from_published_config({"_target_": "modules.fx.Peak", "slope": 3}), SR)
