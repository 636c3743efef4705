"""Plain numbers as values: every effect of the tables, whole chains, what is refused, and no change for tensors."""

import re

import pytest
import torch
from test_effects import audio, every_effect, make

import reknob
from reknob.afx.effect import flatten
from reknob.runtime.errors import UsageError

SR = 44100
EQ = {"eq": {"effect": "peak"}, "pan": {"effect": "panning"}}


def plain(values: dict) -> dict:
    return {k: plain(v) if isinstance(v, dict) else v.detach().tolist() for k, v in values.items()}


@every_effect
def test_numbers_and_lists_give_what_tensors_give(name: str) -> None:
    effect = make(name).eval()
    x = audio(name, 2, torch.Generator().manual_seed(0), torch.float32)
    values = reknob.Knobs(effect, torch.Generator().manual_seed(0))()
    with torch.no_grad():
        torch.testing.assert_close(effect(x, **plain(values)), effect(x, **values), rtol=1e-4, atol=1e-5)


def test_the_documented_call_takes_numbers_lists_for_the_items_and_tensors_side_by_side() -> None:
    chain, x = reknob.build(EQ, sr=SR), torch.randn(2, 1, 1000)
    y = chain(x, eq={"gain": 3.0, "freq": 1000, "Q": 0.7}, pan={"pan": 0.5})
    assert y.shape == (2, 2, 1000)
    gain = torch.tensor([3.0, -3.0], requires_grad=True)
    mixed = chain(x, eq={"gain": gain, "freq": [1000.0, 500.0], "Q": 0.7}, pan={"pan": 0.5})
    torch.testing.assert_close(mixed[0], y[0])
    mixed.square().mean().backward()
    assert gain.grad.abs().min() > 0
    assert chain(x.double(), eq={"gain": 3, "freq": 1000, "Q": 0.7}, pan={"pan": 0.5}).dtype == torch.float64


def test_tensors_are_passed_on_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    chain, seen = reknob.build(EQ, sr=SR), []
    monkeypatch.setattr(type(chain), "forward", lambda self, x, **values: seen.append(values) or x)
    values = reknob.Knobs(chain)()
    chain(torch.zeros(1, 1, 10), **values)
    assert all(a is b for a, b in zip(flatten(seen[0]).values(), flatten(values).values(), strict=True))


def test_a_stream_takes_numbers() -> None:
    chain, x = reknob.build(EQ, sr=SR), torch.randn(1, 1000)
    values = {"eq": {"gain": 3.0, "freq": 1000.0, "Q": 0.7}, "pan": {"pan": 0.3}}
    stream = reknob.Stream(chain, values)
    y = torch.cat([stream.process(x[:, :300]), stream.process(x[:, 300:]), stream.flush()], -1)
    torch.testing.assert_close(y, chain(x[None], **values)[0])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eq": {"gain": 3.0, "freq": 1000.0}}, "values: pan is missing; Serial has: eq, pan"),
        ({"eq": {"gain": 3, "freq": 1e3}, "pan": {"pan": 0.5}}, "values: eq.Q is missing; Peak has: gain"),
        ({"eq": {"gains": 3.0}, "pan": {"pan": 0.5}}, "values: eq.gains is unknown; Peak has: gain, freq, Q"),
        ({"eq": 3.0, "pan": {"pan": 0.5}}, "values: eq=3.0: give its values by name, in a dict"),
        ({"eq": {"gain": "3dB", "freq": 1e3, "Q": 1}, "pan": {"pan": 0.5}}, "eq.gain=3dB: expected numbers"),
        ({"eq": {"gain": 3, "freq": [1e3] * 3, "Q": 1}, "pan": {"pan": 0.5}}, r"eq.freq has the shape \(3,\)"),
        ({"eq": {"gain": 3, "freq": 5.0, "Q": 1}, "pan": {"pan": 0.5}}, "eq.freq=5 Hz lies outside its range"),
    ],
)
def test_what_cannot_be_values_is_refused_in_one_line(values: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        reknob.build(EQ, sr=SR)(torch.zeros(2, 1, 100), **values)


def test_a_processor_of_plain_numbers_renders_at_the_rate_of_its_input() -> None:
    values = {"eq": {"gain": 3, "freq": 1000, "Q": 0.7}, "pan": {"pan": 0.5}}
    processor = reknob.Processor(reknob.build(EQ, sr=SR), values)
    assert processor.values["eq"] == {"gain": 3.0, "freq": 1000.0, "Q": pytest.approx(0.7)}
    assert processor.render(0.1 * torch.randn(2, 48000), sr=48000).shape == (2, 48000)
    assert reknob.Processor(processor.chain, processor.values).values == processor.values
    for shape in ((1, 2, 100), (100, 2)):  # of a batch, and with the samples first, as soundfile reads
        with pytest.raises(UsageError, match=re.escape(f"x has the shape {shape}; give audio")):
            processor.render(torch.zeros(shape), sr=SR)
    with pytest.raises(UsageError, match="values: pan is missing"):
        reknob.Processor(processor.chain, {"eq": values["eq"]})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "mse"}, "loss.name=mse: unknown loss of audio; known: vocal, mel"),
        ({"loss": {"name": "mss", "wieghts": 1}}, "unknown setting 'loss.wieghts'; did you mean loss.weights"),
        ({"loss": 3}, "'3' is no group of settings; give a dict of them"),
        ({"steps": 0}, "epochs=0: must be above 0"),
        ({"chunk_duration": "long"}, "chunk_duration=long: expected a number"),
    ],
)
def test_a_fit_refuses_settings_by_their_declarations(settings: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        reknob.fit("dry.wav", "wet.wav", **settings)


def test_what_presets_do_not_hold_may_be_left_out() -> None:
    chain = reknob.build({"reverb": {"effect": "noise_reverb", "ir_length": 4000}}, sr=SR)
    values = reknob.Knobs(chain)()["reverb"]
    plain = {name: value.tolist() for name, value in values.items() if name != "phase"}
    x = 0.1 * torch.randn(1, 1, 3000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(chain(x, reverb=plain), chain(x, reverb=values))
