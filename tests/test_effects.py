"""What holds for every effect of the registry: shapes, batches, ranges, silence, identity, linearity, time shifts."""

import pytest
import torch
from measures import relative_rms
from torch import Tensor

from reknob.afx import stream
from reknob.afx.chain import Sends, Serial
from reknob.afx.delay import PingPongDelay
from reknob.afx.effect import Effect, Knobs, Values, flatten, nest
from reknob.afx.functional import convolve
from reknob.afx.param import Negative
from reknob.afx.registry import EFFECTS, build

SR = 44100
# Of effects with long responses, to keep them quick.
LOW_SR = 11025
LOOP_EQ = {"effect": "low_pass", "freq": {"default": 3000, "range": [200, 5000]}, "Q": {"range": [0.5, 2]}}
DELAY = {"effect": "ping_pong_delay", "ir_duration": 2, "delay": {"default": 310, "range": [300, 330]}}
FDN = {"effect": "fdn", "ir_duration": 0.1, "bands": 5, "delays": [29, 37, 43]}
FDN_EQ = {
    "effect": "serial",
    "peak": {"effect": "peak", "freq": {"range": [33, 5000]}},
    "high_shelf": {"effect": "high_shelf", "freq": {"default": 3000, "range": [750, 5000]}},
}
SHELF = {"effect": "low_shelf"}

# One small instance of every effect, and of every form of it.
INSTANCES = {
    "peak": {"effect": "peak"},
    "low_shelf": SHELF,
    "high_shelf": {"effect": "high_shelf"},
    "low_pass": {"effect": "low_pass"},
    "high_pass": {"effect": "high_pass"},
    "compressor": {"effect": "compressor_expander", "lookahead": False},
    "compressor_lookahead": {"effect": "compressor_expander"},
    "compressor_soft": {"effect": "compressor", "threshold": {"default": -30.0}},
    "de_esser": {"effect": "de_esser", "threshold": {"default": -40.0}},
    "limiter": {"effect": "limiter", "threshold": {"default": -20.0}},
    "clipper": {"effect": "clipper", "drive": {"default": 15.0}},
    "panning": {"effect": "panning"},
    "stereo_width": {"effect": "stereo_width"},
    "delay": DELAY,
    "delay_eq": {**DELAY, "eq": LOOP_EQ},
    "delay_eq_after": {**DELAY, "eq": LOOP_EQ, "recursive_eq": False},
    "delay_surrogate": {**DELAY, "eq": LOOP_EQ, "surrogate": True},
    "delay_damped": {**DELAY, "surrogate": True, "straight_through": False},
    "delay_fs": {**DELAY, "render": "fs"},
    "delay_fs_surrogate": {**DELAY, "render": "fs", "surrogate": True, "eq": LOOP_EQ},
    "delay_realtime": {**DELAY, "render": "realtime", "eq": LOOP_EQ},
    "fdn": FDN,
    "fdn_eq": {**FDN, "eq": FDN_EQ},
    "fdn_decay_per_line": {**FDN, "shared_decay": False},
    "fdn_trainable_delays": {**FDN, "trainable_delays": True},
    "fdn_realtime": {**FDN, "render": "realtime", "eq": FDN_EQ},
    "noise_reverb": {"effect": "noise_reverb", "ir_length": 3000},
    "fir": {"effect": "fir", "length": 16},
    "serial": {
        "effect": "serial",
        "peak": {"effect": "peak"},
        "low_shelf": SHELF,
        "comp": {"effect": "compressor_expander"},
        "low_pass": {"effect": "low_pass"},
    },
    "parallel": {"effect": "parallel", "comp": {"effect": "compressor_expander"}, "a": SHELF, "b": SHELF},
    "sends": {"effect": "sends", "delay": {**DELAY, "eq": LOOP_EQ}, "reverb": {**FDN, "eq": FDN_EQ}},
}
NOT_LINEAR = ("compressor", "de_esser", "limiter", "clipper", "serial", "parallel")
LINEAR = [name for name in INSTANCES if not name.startswith(NOT_LINEAR)]
# What works in frames knows where they lie.
SHIFTABLE = [name for name in LINEAR if name != "noise_reverb"]
DIFFERENTIABLE = [name for name in INSTANCES if not name.endswith("realtime")]
WITH_RESPONSE = [name for name in DIFFERENTIABLE if name.startswith(("panning", "delay", "fdn", "sends"))]
every_effect = pytest.mark.parametrize("name", INSTANCES)


def has_echoes(name: str) -> bool:
    return name.startswith(("delay", "sends"))


def make(name: str) -> Effect:
    """An instance in training mode, where a surrogate is at work."""
    return build(INSTANCES[name], LOW_SR if has_echoes(name) else SR).train()


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def audio(name: str, batch: int, generator: torch.Generator, dtype: torch.dtype = torch.float64) -> Tensor:
    """Noise with as many channels as the effect takes, long enough for two echoes where there are any."""
    shape = (batch, 1, 7501) if has_echoes(name) else (batch, 2, 4001)
    return 0.1 * torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def random_raws(
    effect: Effect, batch: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """Raw parameters (*batch, *shape) around their defaults."""
    raws = {}
    for name, p in effect.walk():
        spread = 0.3 * torch.randn(*batch, *p.shape, 1, generator=generator).squeeze(-1)
        raws[name] = (p.initial_raw(generator) + spread).to(dtype).requires_grad_()
    return raws


def values_of(effect: Effect, raws: dict[str, Tensor]) -> Values:
    return nest({name: p.mapping.value(raws[name]) for name, p in effect.walk()})


def gradients(y: Tensor, weight: Tensor, raws: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of sum(y · weight), zero where a parameter has none."""
    found = torch.autograd.grad((y * weight).sum(), list(raws.values()), allow_unused=True)
    return {k: torch.zeros_like(raw) if g is None else g for (k, raw), g in zip(raws.items(), found, strict=True)}


def apart(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    """What differs by more than rounding."""
    errors = {name: relative_rms(ours[name], theirs[name]) for name in theirs}
    return {name: error for name, error in errors.items() if not error < 1e-7}


def keys_of(config: dict) -> set[str]:
    inner = (keys_of(value) for value in config.values() if isinstance(value, dict) and "effect" in value)
    return {config["effect"]}.union(*inner)


def test_every_key_of_the_registry_is_covered() -> None:
    assert set().union(*map(keys_of, INSTANCES.values())) == EFFECTS.keys()


@every_effect
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("batch", [(), (3,)], ids=["scalar values", "a value each"])
def test_the_output_has_the_input_s_length_and_dtype(name: str, batch: tuple[int, ...], dtype: torch.dtype) -> None:
    effect, generator = make(name), random()
    x = audio(name, 3, generator, dtype)
    y = effect(x, **values_of(effect, random_raws(effect, batch, generator, dtype)))
    assert y.shape == (3, 2, x.shape[-1])
    assert y.dtype == dtype
    assert y.isfinite().all()
    assert relative_rms(y, torch.zeros_like(y) + 1e-30) > 1


@every_effect
def test_a_batch_equals_its_items_gradients_included(name: str) -> None:
    effect, generator = make(name), random(1)
    x, raws = audio(name, 3, generator), random_raws(effect, (3,), generator)
    y = effect(x, **values_of(effect, raws))
    weight = torch.randn(y.shape, generator=generator, dtype=y.dtype)
    grads = gradients(y, weight, raws)
    for i in range(3):
        own = {key: raw[i].detach().requires_grad_() for key, raw in raws.items()}
        y_own = effect(x[i : i + 1], **values_of(effect, own))
        assert relative_rms(y[i], y_own[0]) < 1e-9
        assert apart({k: g[i] for k, g in grads.items()}, gradients(y_own, weight[i : i + 1], own)) == {}


@every_effect
def test_values_of_groups_equal_the_same_values_for_each_item(name: str) -> None:
    effect, generator = make(name), random(9)
    x, raws = audio(name, 4, generator), random_raws(effect, (2,), generator)
    each = {key: raw.detach().repeat_interleave(2, 0).requires_grad_() for key, raw in raws.items()}
    y = effect(x, **effect.for_items(values_of(effect, raws), 4))
    y_each = effect(x, **values_of(effect, each))
    assert relative_rms(y, y_each) < 1e-9
    weight = torch.randn(y.shape, generator=generator, dtype=y.dtype)
    summed = {key: g.unflatten(0, (2, 2)).sum(1) for key, g in gradients(y_each, weight, each).items()}
    if not name.endswith("realtime"):
        assert apart(gradients(y, weight, raws), summed) == {}


@every_effect
def test_one_value_for_all_equals_the_same_value_for_each(name: str) -> None:
    effect, generator = make(name), random(2)
    x, raws = audio(name, 3, generator), random_raws(effect, (), generator)
    each = {key: raw.detach().expand(3, *raw.shape).clone().requires_grad_() for key, raw in raws.items()}
    y, y_each = effect(x, **values_of(effect, raws)), effect(x, **values_of(effect, each))
    assert relative_rms(y, y_each) < 1e-9
    weight = torch.randn(y.shape, generator=generator, dtype=y.dtype)
    grads = gradients(y_each, weight, each)
    assert apart(gradients(y, weight, raws), {key: g.sum(0) for key, g in grads.items()}) == {}


@every_effect
def test_values_for_each_and_values_for_all_may_be_mixed(name: str) -> None:
    effect, generator = make(name), random(16)
    x, raws = audio(name, 3, generator), random_raws(effect, (), generator)
    mixed = {key: raw if i % 2 else raw.expand(3, *raw.shape) for i, (key, raw) in enumerate(raws.items())}
    other = {key: raw.expand(3, *raw.shape) if i % 2 else raw for i, (key, raw) in enumerate(raws.items())}
    y = effect(x, **values_of(effect, raws))
    assert relative_rms(effect(x, **values_of(effect, mixed)), y) < 1e-9
    assert relative_rms(effect(x, **values_of(effect, other)), y) < 1e-9


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@pytest.mark.parametrize("loudness", [1.0, 0.0], ids=["noise", "silence"])
def test_output_and_gradients_are_finite_at_the_ends_of_every_range(name: str, loudness: float) -> None:
    effect, generator = make(name), random(3)
    centre = {key: p.initial_raw(generator) for key, p in effect.walk()}
    # An item of the batch for each parameter at each of its ends, and two for all of them at once.
    items = [{key: end} for key in centre for end in (20.0, -20.0)]
    items += [dict.fromkeys(centre, end) for end in (20.0, -20.0)]
    items += [{key: end} for key, p in effect.walk() if p.unit == "dB" for end in (100.0, -100.0)]
    # Exponentials of these are denormal numbers somewhere, or zero.
    unbounded = [key for key, p in effect.walk() if isinstance(p.mapping, Negative)]
    items += [{key: end} for key in unbounded for end in (30.0, 60.0, 1000.0, -1000.0)]
    items += [dict.fromkeys(unbounded, end) for end in (7.0, 30.0, 60.0, 1000.0, -1000.0) if unbounded]
    stacked = {}
    for key, middle in centre.items():
        rows = [torch.full_like(middle, item[key]) if key in item else middle for item in items]
        stacked[key] = torch.stack(rows).requires_grad_()
    x = (loudness * audio(name, 1, generator, torch.float32)).repeat(len(items), 1, 1).requires_grad_()
    y = effect(x, **values_of(effect, stacked))
    y.square().mean().backward()
    unfinished = {
        (key, str(items[i]))
        for key, t in {"x": x.grad, "y": y, **{k: raw.grad for k, raw in stacked.items()}}.items()
        if t is not None
        for i in (~t.isfinite().reshape(len(items), -1).all(1)).nonzero().flatten().tolist()
    }
    assert unfinished == set()


@pytest.mark.parametrize("name", ["peak", "low_shelf", "high_shelf"])
def test_an_equaliser_at_0_db_is_the_identity(name: str) -> None:
    effect, generator = make(name), random(4)
    x, raws = audio(name, 2, generator), random_raws(effect, (2,), generator)
    y = effect(x, **values_of(effect, {**raws, "gain": torch.zeros(2, dtype=x.dtype)}))
    assert relative_rms(y, x) < 1e-12


@pytest.mark.parametrize("name", ["peak", "low_shelf", "high_shelf", "panning", "stereo_width", "fir"])
def test_an_effect_that_starts_as_the_identity_does(name: str) -> None:
    effect, generator = make(name), random(5)
    x = audio(name, 2, generator)
    assert relative_rms(effect(x, **Knobs(effect).double()()), x) < 1e-7


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_effect_of_a_sum_is_the_sum_of_its_effects(name: str) -> None:
    effect, generator = make(name), random(6)
    values = values_of(effect, random_raws(effect, (), generator))
    a, b = audio(name, 1, generator), audio(name, 1, generator)
    assert relative_rms(effect(2 * a - 3 * b, **values), 2 * effect(a, **values) - 3 * effect(b, **values)) < 1e-9


@pytest.mark.parametrize("name", SHIFTABLE)
def test_a_time_invariant_effect_commutes_with_a_shift(name: str) -> None:
    effect, generator = make(name), random(7)
    values = values_of(effect, random_raws(effect, (), generator))
    x = audio(name, 1, generator)
    late = torch.nn.functional.pad(x, (77, 0))[..., : x.shape[-1]]
    assert relative_rms(effect(late, **values)[..., 77:], effect(x, **values)[..., :-77]) < 1e-9


@pytest.mark.parametrize("name", WITH_RESPONSE)
def test_convolving_with_the_response_is_the_effect(name: str) -> None:
    effect, generator = make(name), random(8)
    values = values_of(effect, random_raws(effect, (2,), generator))
    x = audio(name, 2, generator)[:, :1]
    h = effect.response(**values)
    stereo = x.expand(-1, h.shape[-2], -1)
    assert relative_rms(convolve.convolve(stereo, h), effect(x, **values)) < 1e-9


@every_effect
def test_the_layout_of_the_audio_in_memory_does_not_matter(name: str) -> None:
    effect, generator = make(name), random(9)
    x = audio(name, 3, generator)
    values = values_of(effect, random_raws(effect, (3,), generator))
    scattered = x.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert not scattered.is_contiguous()
    assert torch.equal(effect(scattered, **values), effect(x, **values))


@every_effect
def test_block_by_block_equals_one_call(name: str) -> None:
    effect, generator = make(name).eval(), random(17)
    values = flatten(values_of(effect, random_raws(effect, (), generator)))
    values = nest({key: value.detach() for key, value in values.items()})
    x = audio(name, 1, generator)
    assert relative_rms(stream.render(effect, values, x[0], block=1234), effect(x, **values)[0]) < 1e-9


@pytest.mark.parametrize("samples", [1, 2, 3])
@pytest.mark.parametrize("name", [name for name in INSTANCES if name != "noise_reverb"])
def test_a_few_samples_come_out_as_the_start_of_many(name: str, samples: int) -> None:
    effect, generator = make(name), random(10)
    values = values_of(effect, random_raws(effect, (), generator))
    values = {**values, "comp": {**values["comp"], "lookahead": torch.tensor(0.0)}} if "comp" in values else values
    values = {**values, "lookahead": torch.tensor(0.0)} if name == "compressor_lookahead" else values
    x = audio(name, 1, generator)
    few = effect(x[..., :samples], **values)
    assert few.shape[-1] == samples
    scale = x.abs().max()
    assert (few - effect(x, **values)[..., :samples]).abs().max() < 1e-9 * scale


@every_effect
def test_a_seed_determines_the_defaults(name: str) -> None:
    effect = make(name)
    first, again, other = (Knobs(effect, random(seed)).state_dict() for seed in (11, 11, 12))
    assert all(torch.equal(first[key], again[key]) for key in first)
    drawn = {"U", "gamma"} & {key.split(".")[-1] for key in first}
    assert {key.split(".")[-1] for key in first if not torch.equal(first[key], other[key])} == drawn


@every_effect
def test_the_state_of_the_knobs_is_the_declared_parameters_and_nothing_else(name: str) -> None:
    effect = make(name)
    shapes = {key: tuple(raw.shape) for key, raw in Knobs(effect).state_dict().items()}
    assert shapes == {key: p.shape for key, p in effect.walk()}
    assert not effect.state_dict()
    assert flatten(Knobs(effect)()).keys() == shapes.keys()


def test_neighbouring_biquads_in_one_pass_equal_one_after_another() -> None:
    bands = {key: {"effect": key} for key in ("peak", "low_shelf", "high_shelf", "low_pass", "high_pass")}
    effect, generator = build(bands, SR), random(13)
    assert isinstance(effect, Serial)
    raws = random_raws(effect, (3,), generator)
    raws |= {key: raw[1].detach().requires_grad_() for key, raw in raws.items() if key.startswith("high_pass")}
    x = y_each = audio("peak", 3, generator)
    y = effect(x, **values_of(effect, raws))
    for name, part in effect.parts():
        y_each = part(y_each, **values_of(effect, raws)[name])
    assert relative_rms(y, y_each) < 1e-9
    weight = torch.randn(y.shape, generator=generator, dtype=y.dtype)
    assert apart(gradients(y, weight, raws), gradients(y_each, weight, raws)) == {}


@pytest.mark.parametrize("batch", [(), (2,)], ids=["scalar values", "a value each"])
def test_sends_equal_their_effects_run_in_turn(batch: tuple[int, ...]) -> None:
    effect, generator = make("sends"), random(14)
    assert isinstance(effect, Sends)
    raws = random_raws(effect, batch, generator)
    raws["delay_to_reverb"] = torch.ones(batch, dtype=torch.float64)
    x, v = audio("sends", 2, generator), values_of(effect, raws)
    parts = dict(effect.parts())
    delay = parts["delay"](x, **v["delay"])
    reverb = parts["reverb"](x.expand(-1, 2, -1) + v["delay_to_reverb"].reshape(-1, 1, 1) * delay, **v["reverb"])
    direct = parts["direct"](x, **v["direct"])
    assert relative_rms(effect(x, **v), direct + delay + reverb) < 1e-9


def test_a_straight_through_surrogate_changes_gradients_and_no_values() -> None:
    effect, generator = make("delay_surrogate"), random(15)
    x, raws = audio("delay", 1, generator), random_raws(effect, (), generator)
    train, exact = effect(x, **values_of(effect, raws)), effect.eval()(x, **values_of(effect, raws))
    assert relative_rms(train, exact) < 1e-9
    weight = torch.randn(train.shape, generator=generator, dtype=x.dtype)
    surrogate, ideal = gradients(train, weight, raws), gradients(exact, weight, raws)
    assert surrogate["damping"] != 0
    assert ideal["damping"] == 0
    assert relative_rms(surrogate["delay"], ideal["delay"]) > 0.01


def test_the_delay_s_penalty_falls_to_0_as_the_damping_does() -> None:
    config = {**INSTANCES["delay_surrogate"], "regularise": True}
    effect = build({"effect": "sends", "delay": config}, SR)
    values = Knobs(effect).double()()
    assert effect.penalty(values).item() == pytest.approx((1 - torch.tensor(-0.01).exp().item()) ** 2, rel=1e-4)
    values["delay"]["damping"] = torch.tensor(0.0)
    assert effect.penalty(values) == 0
    assert make("delay_surrogate").penalty(values["delay"]) == 0


@pytest.mark.parametrize(
    "eq", [{}, {"eq": {**LOOP_EQ, "freq": {"default": 4999, "range": [200, 5000]}}}], ids=["bare", "eq"]
)
def test_a_delay_that_may_be_short_keeps_all_its_echoes(eq: dict) -> None:
    short = {"delay": {"default": 50.0, "range": [10, 1000]}, "feedback": {"default": 0.9}, "gain": {"default": 0.5}}
    effect = build({"effect": "ping_pong_delay", "ir_duration": 2, **short, **eq}, LOW_SR)
    assert isinstance(effect, PingPongDelay)
    energy = effect.response(**Knobs(effect).double()()).square().sum((0, 1))
    apart_by = round(0.05 * LOW_SR)
    echoes = torch.stack([energy[k * apart_by - 200 : k * apart_by + 200].sum() for k in range(1, 39)])
    # Each echo holds 0.81 of the energy of the one before, less what the filter takes.
    assert (echoes[1:] / echoes[:-1]).min() > 0.6
