"""Parameters: the maps between raw numbers, unit positions and values, and the defaults and ranges of an instance."""

import math

import pytest
import scipy.linalg
import torch

from reknob.afx.effect import Knobs, flatten
from reknob.afx.param import (
    Bounded,
    Ceilings,
    Free,
    Linear,
    Log,
    Mapping,
    Negative,
    Orthogonal,
    Param,
    RawNormal,
    RiseTime,
    Uniform,
    Wrapped,
)
from reknob.afx.registry import build

SR = 44100
SPREAD = torch.linspace(-6, 6, 13, dtype=torch.float64)
UPPER = torch.tensor([[0.0, 0.7, -0.4], [0.0, 0.0, 1.1], [0.0, 0.0, 0.0]], dtype=torch.float64)
# Every mapping, with raw numbers from where the way back is unique.
MAPPINGS = {
    "linear": (Linear(-3, 40), SPREAD),
    "log": (Log(20, 20000), SPREAD),
    "ceilings": (Ceilings((0.5, 2.0)), torch.stack([SPREAD, -SPREAD], -1)),
    "free": (Free(), SPREAD),
    "negative": (Negative(), SPREAD),
    "wrapped": (Wrapped(15), SPREAD.abs()),
    "rise_time": (RiseTime(SR), SPREAD),
    "orthogonal": (Orthogonal(), UPPER),
}
PEAK = Param("freq", "Hz", 2000.0, Linear(33, 17500))


def test_every_mapping_is_covered():
    assert {type(mapping) for mapping, _ in MAPPINGS.values()} | {Bounded} >= set(Mapping.__subclasses__())


@pytest.mark.parametrize("mapping, raw", MAPPINGS.values(), ids=MAPPINGS)
def test_the_raw_number_of_a_value_is_the_one_it_came_from(mapping: Mapping, raw: torch.Tensor):
    assert torch.allclose(mapping.raw(mapping.value(raw)), raw, rtol=1e-9, atol=1e-9)


def test_values_far_below_zero_have_raw_numbers():
    values = torch.tensor([-1e-6, -1.0, -30.0, -100.0, -1e6])
    assert Negative().value(Negative().raw(values)).tolist() == pytest.approx(values.tolist(), rel=1e-5)


@pytest.mark.parametrize("mapping", [Linear(-3, 40), Log(20, 20000)], ids=["linear", "log"])
def test_a_controller_s_position_and_a_raw_number_meet_at_the_logistic_function(mapping: Bounded):
    assert torch.equal(mapping.from_unit(SPREAD.sigmoid()), mapping.value(SPREAD))
    ends = mapping.from_unit(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert ends.tolist() == pytest.approx([mapping.lo, mapping.hi])


def test_the_middle_of_a_range_is_its_mean_evenly_or_in_octaves():
    half = torch.tensor(0.5, dtype=torch.float64)
    assert Linear(-3, 41).from_unit(half).item() == pytest.approx(19)
    assert Log(20, 20000).from_unit(half).item() == pytest.approx(math.sqrt(20 * 20000))


def test_each_column_has_its_own_ceiling():
    values = Ceilings((0.5, 2.0)).from_unit(torch.tensor([[1.0, 1.0], [0.5, 0.25]]))
    assert values.tolist() == [[0.5, 2.0], [0.25, 0.5]]


def test_a_wrapped_value_stays_within_its_period():
    raw = torch.tensor([0.0, 3.0, -3.0, 15.0, -17.25, 46.0], dtype=torch.float64)
    assert Wrapped(15).value(raw).tolist() == [0.0, 3.0, 3.0, 0.0, 2.25, 1.0]


def test_a_negative_value_is_minus_the_softplus():
    assert Negative().value(torch.tensor(0.0, dtype=torch.float64)).item() == pytest.approx(-math.log(2))
    assert (Negative().value(SPREAD) < 0).all()


@pytest.mark.parametrize("ms", [0.05, 1.0, 50.0, 3000.0])
def test_a_rise_time_is_how_long_its_average_takes_from_10_to_90_per_cent(ms: float):
    coef = RiseTime(SR).raw(torch.tensor(ms, dtype=torch.float64)).sigmoid().item()
    # After t samples of a step, 1 - (1 - coef)^t of it is reached.
    samples = math.log((1 - 0.9) / (1 - 0.1)) / math.log1p(-coef)
    assert samples / SR * 1000 == pytest.approx(ms, rel=2e-3)


def test_a_rise_time_keeps_its_digits_at_both_ends_of_float32():
    raw = torch.tensor([-20.0, 20.0])
    exact = RiseTime(SR).value(raw.double())
    assert torch.allclose(RiseTime(SR).value(raw).double(), exact, rtol=1e-6)


def test_only_the_upper_triangle_of_an_orthogonal_matrix_is_read():
    raw = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    U = Orthogonal().value(raw)
    assert torch.allclose(U @ U.mT, torch.eye(6, dtype=torch.float64).expand(2, -1, -1), atol=1e-12)
    assert torch.equal(U, Orthogonal().value(raw.triu(1)))
    assert torch.allclose(torch.linalg.det(U), torch.ones(2, dtype=torch.float64))


def test_an_instance_narrows_a_range_and_moves_a_default():
    own = PEAK.with_(default=800, range=[33, 5400])
    assert (own.default, own.mapping, own.name, own.unit) == (800, Linear(33, 5400), "freq", "Hz")
    assert PEAK.with_() == PEAK
    assert PEAK.with_(range=[1000, 3000]).default == 2000.0
    logarithmic = Param("freq", "Hz", 2000.0, Log(20, 20000)).with_(range=[100, 5000])
    assert logarithmic.mapping == Log(100, 5000)


@pytest.mark.parametrize(
    "param, changes, message",
    [
        (PEAK, {"default": 20.0}, "freq: the default 20.0 lies outside its range; allowed: 33 to 17500"),
        (PEAK, {"default": 17500}, "freq: the default 17500 lies outside its range; allowed: 33 to 17500"),
        (PEAK, {"range": [3000, 5000]}, "freq: the default 2000.0 lies outside its range; allowed: 3000.0 to 5000.0"),
        (PEAK, {"range": [5000, 100]}, "freq: the range [5000, 100] is empty; give [lowest, highest]"),
        (PEAK, {"range": [100, 100]}, "freq: the range [100, 100] is empty; give [lowest, highest]"),
        (Param("gain", "dB", 0.0), {"range": [-6, 6]}, "gain has no range to set; its mapping is Free"),
        (Param("lookahead", "ms", 1.0, Wrapped(15)), {"range": [0, 1]}, "lookahead has no range to set"),
    ],
)
def test_an_impossible_default_or_range_is_refused(param: Param, changes: dict, message: str):
    with pytest.raises(ValueError) as error:
        param.with_(**changes)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "mapping, within, outside",
    [
        (Linear(-3, 40), [-2.9, 0.0, 39.9], [-3, 40, 41, 1e9]),
        (Log(20, 20000), [20.1, 440.0], [20, 20000, 0, -5]),
        (Ceilings((0.5, 2.0)), [0.1, 0.4], [0, 0.5, 1.9, -1]),
        (Free(), [-1e6, 0.0, 1e6], [math.inf, math.nan]),
        (Negative(), [-0.01, -5.0], [0, 1]),
        (Wrapped(15), [0.0, 7.3, 14.9], [15, 20, -1]),
        (RiseTime(SR), [0.05, 3000.0], [0, -5, math.inf]),
        (Orthogonal(), [], [0.3, 0]),
    ],
)
def test_a_default_that_its_mapping_cannot_hold_is_refused_for_every_mapping(
    mapping: Mapping, within: list[float], outside: list[float]
):
    shape = {Ceilings: (3, 2), Orthogonal: (2, 2)}.get(type(mapping), ())
    for default in within:
        param = Param("a", "", default, mapping, shape).checked()
        assert param.initial_raw().isfinite().all()
        param.check(torch.full(shape, default))
    for default in outside:
        with pytest.raises(ValueError, match=f"a: the default {default} lies outside its range; allowed: "):
            Param("a", "", default, mapping, shape).checked()


@pytest.mark.parametrize("default", [[1, 2], {"a": 1}, "high", True, math.inf, math.nan, 1e300])
def test_a_default_must_be_a_number(default: object):
    with pytest.raises(ValueError, match="freq: the default .* is not a number"):
        PEAK.with_(default=default)


@pytest.mark.parametrize("given", ["wide", [1], [1, 2, 3], [1, "x"], [1, math.inf], {"lo": 1}, 5, [-10, 100], [0, 100]])
def test_a_range_is_two_numbers_that_the_quantity_can_have(given: object):
    with pytest.raises(ValueError, match="freq: the range .*(is not two numbers|extends beyond the allowed values)"):
        PEAK.with_(range=given)
    with pytest.raises(ValueError, match="allowed: 0 to 1"):
        Param("feedback", "", 0.5, Linear(0, 1)).with_(range=[0, 1.5])


@pytest.mark.parametrize("shared_decay", [True, False])
def test_a_drawn_default_has_raw_numbers_whatever_the_range(shared_decay: bool):
    effect = build({"effect": "fdn", "ir_duration": 0.1, "shared_decay": shared_decay}, SR)
    assert Knobs(effect).gamma.isfinite().all()


@pytest.mark.parametrize("default", [0.3, Uniform(0.2, 0.8), RawNormal(0.5)], ids=["number", "uniform", "normal"])
def test_initial_raw_numbers_have_the_declared_shape_and_follow_the_generator(default: float | Uniform | RawNormal):
    param = Param("gamma", "", default, Linear(0, 1), (5, 2))
    first, again = (param.initial_raw(torch.Generator().manual_seed(3)) for _ in range(2))
    assert first.shape == (5, 2)
    assert first.dtype == torch.float32
    assert torch.equal(first, again)


def test_a_drawn_default_is_spread_as_it_says():
    generator = torch.Generator().manual_seed(0)
    even = Linear(0, 2).value(Param("a", "", Uniform(0.4, 0.6), Linear(0, 2), (10000,)).initial_raw(generator))
    assert 0.4 <= even.min() < 0.401 and 0.599 < even.max() <= 0.6
    normal = Param("a", "", RawNormal(0.25), Free(), (10000,)).initial_raw(generator)
    assert normal.std().item() == pytest.approx(0.25, rel=0.05)


def test_a_default_comes_back_from_its_raw_number_as_it_was_written():
    for key, p in build({"effect": "compressor_expander"}, SR).walk():
        value = p.mapping.value(p.initial_raw().double()).item()
        assert value == pytest.approx(p.default, rel=1e-5), key


def test_values_set_in_physical_units_come_back():
    effect = build({"peak": {"effect": "peak"}, "comp": {"effect": "compressor_expander"}}, SR)
    knobs = Knobs(effect).double()
    wanted = {"peak": {"gain": -4.5, "freq": 440.0, "Q": 2.5}}
    wanted["comp"] = {"cmp_threshold": -30, "exp_threshold": -60, "makeup": 6, "lookahead": 7.3, "attack": 12.0}
    wanted["comp"] |= {"release": 90.0, "avg_coef": 0.05, "cmp_ratio": 4.0, "exp_ratio": 0.4}
    knobs.set_values(wanted)
    assert {k: v.item() for k, v in flatten(knobs()).items()} == pytest.approx(flatten(wanted))


def test_a_controller_s_columns_become_values_in_declared_order():
    effect = build({"low_pass": {"effect": "low_pass"}, "high_pass": {"effect": "high_pass"}}, SR)
    q = torch.tensor([[0.0, 1.0, 0.5, 0.25], [1.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    values = effect.from_unit(q)
    assert values["low_pass"]["freq"].tolist() == [200, 18000]
    assert values["low_pass"]["Q"].tolist() == [10, 0.5]
    assert values["high_pass"]["freq"].tolist() == [16 + 0.5 * (5300 - 16), 16]
    assert values["high_pass"]["Q"].tolist() == [0.5 + 0.25 * 9.5, 10]


def test_a_controller_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="got 3 controls for 2: freq, Q"):
        build({"effect": "low_pass"}, SR).from_unit(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="a controller needs a range for every parameter; without one: gain"):
        build({"effect": "peak"}, SR).from_unit(torch.zeros(1, 3))


@pytest.mark.parametrize("size", [0.1, 1.0, 30.0])
def test_the_matrix_exponential_is_that_of_scipy_and_a_rotation(size: float):
    raw = size * torch.randn(4, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rotation = Orthogonal().value(raw)
    upper = raw.triu(1)
    expected = torch.from_numpy(scipy.linalg.expm((upper - upper.mT).numpy()))
    torch.testing.assert_close(rotation, expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(6, dtype=torch.float64).expand(4, 6, 6))
