"""Sounds block by block: any block sizes give what one call on the whole gives."""

import pytest
import torch
from measures import relative_rms
from torch import Tensor

from reknob.afx.effect import Effect, Knobs, Values
from reknob.afx.registry import EFFECTS, KEYS, build, parse_chain
from reknob.afx.stream import Stream, render, stream
from reknob.fitting.settings import CHAINS
from reknob.runtime.settings import merge, read_yaml

SR = 44100
SAMPLES = 6000
FEW = 140
SHORT = {"sends": {"delay": {"ir_duration": 2}, "reverb": {"ir_duration": 0.5}}}
REALTIME = {"sends": {"delay": {"render": "realtime"}, "reverb": {"render": "realtime"}}}
# An echo within the first 6000 samples, and a compressor that has something to do.
LIVELY = {
    "comp": {"cmp_threshold": {"default": -30.0}, "attack": {"default": 2.0}, "release": {"default": 30.0}},
    "sends": {"delay": {"delay": {"default": 100.5}, "gain": {"default": 0.5}}},
}

FIR = {"effect": "fir", "length": 64}
NOISE = {"effect": "noise_reverb", "ir_length": 2000}
WIDTH = {"pan": {"effect": "panning", "pan": {"default": 0.3}}, "width": {"effect": "stereo_width"}}


def chain_of(name: str) -> dict:
    return read_yaml(CHAINS / f"{name}.yaml")


def opened(config: dict) -> tuple[Effect, Values]:
    return scattered(build(config, SR).eval())


def scattered(effect: Effect) -> tuple[Effect, Values]:
    """A chain with every parameter away from its default by a little, and those values."""
    generator = torch.Generator().manual_seed(1)
    knobs = Knobs(effect, generator)
    with torch.no_grad():
        for raw in knobs.parameters():
            raw += 0.1 * torch.randn(raw.shape, generator=generator)
        return effect, knobs()


def swinging_noise(samples: int = SAMPLES, channels: int = 1) -> Tensor:
    """Noise whose level swings, so that a compressor moves."""
    swing = torch.sin(torch.arange(samples) * (2 * torch.pi / 2000)).square()
    return 0.5 * swing * torch.randn(channels, samples, generator=torch.Generator().manual_seed(0))


def one_call(effect: Effect, values: Values, x: Tensor) -> Tensor:
    with torch.no_grad():
        return effect(x.unsqueeze(0), **values).squeeze(0)


@pytest.mark.parametrize("block", [7, 1000, 4096, SAMPLES, 10**6])
@pytest.mark.parametrize("render_form", ["response", "realtime"])
def test_the_whole_vocal_chain_in_blocks_equals_one_call(block: int, render_form: str) -> None:
    config = merge(merge(chain_of("diffvox"), SHORT), LIVELY)
    effect, values = opened(merge(config, REALTIME) if render_form == "realtime" else config)
    x = swinging_noise(FEW if block == 7 else SAMPLES)
    expected = one_call(effect, values, x)
    y = render(effect, values, x, block)
    assert y.shape == expected.shape == (2, x.shape[-1])
    assert relative_rms(y, expected) < 1e-5


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_a_chain_without_spatial_effects_in_blocks_equals_one_call(block: int) -> None:
    effect, values = opened(merge(chain_of("eq_comp"), {"comp": LIVELY["comp"]}))
    x = swinging_noise(FEW * block if block < 1000 else SAMPLES)
    assert relative_rms(render(effect, values, x, block), one_call(effect, values, x)) < 1e-5


@pytest.mark.parametrize("lookahead_ms", [0.02, 3.3, 14.9])
@pytest.mark.parametrize("block", [50, 1000])
def test_lookahead_sees_into_the_blocks_to_come(lookahead_ms: float, block: int) -> None:
    comp = {"effect": "compressor_expander", "lookahead": {"default": lookahead_ms}, **LIVELY["comp"]}
    effect, values = opened({"comp": comp})
    x = swinging_noise(3000)
    assert relative_rms(render(effect, values, x, block), one_call(effect, values, x)) < 1e-5


def test_blocks_of_changing_sizes_give_as_many_samples_as_went_in() -> None:
    effect, values = opened(merge(chain_of("eq_comp"), {"comp": LIVELY["comp"]}))
    x = swinging_noise(5000)
    sizes = [1, 2, 1500, 3, 700, 1, 2793]
    assert sum(sizes) == 5000
    blocks = list(stream(effect, values, x.split(sizes, -1)))
    assert len(blocks) == len(sizes)
    assert relative_rms(torch.cat(blocks, -1), one_call(effect, values, x)) < 1e-5


def test_a_sound_shorter_than_the_lookahead_passes_whole() -> None:
    effect, values = opened(merge(chain_of("eq_comp"), {"comp": {"lookahead": {"default": 10.0}}}))
    for samples in (1, 100):
        x = swinging_noise(2000)[:, -samples:]
        assert relative_rms(render(effect, values, x, 30), one_call(effect, values, x)) < 1e-5


def test_a_second_sound_starts_afresh() -> None:
    effect, values = opened(merge(chain_of("eq_comp"), {"comp": LIVELY["comp"]}))
    x = swinging_noise(3000)
    first = render(effect, values, x, 1000)
    assert torch.equal(render(effect, values, x, 1000), first)


def test_a_chain_that_needs_the_whole_sound_gets_it() -> None:
    effect, values = scattered(parse_chain("peq_compfull_dist", SR, "synthesis").eval())
    x = swinging_noise()
    assert relative_rms(render(effect, values, x, 700), one_call(effect, values, x)) < 1e-5


def test_a_stream_gives_what_is_ready_and_the_rest_at_the_end() -> None:
    effect, values = opened(merge(chain_of("eq_comp"), {"comp": LIVELY["comp"]}))
    x = swinging_noise(3000)
    running = Stream(effect, values)
    ready = [running.process(block) for block in x.split(500, -1)]
    rest = running.flush()
    held_back = SR * 16 // 1000 - SR // 1000
    assert [y.shape[-1] for y in ready] == [0, 3 * 500 - held_back - 500, *[500] * 4]
    assert rest.shape[-1] == held_back
    assert relative_rms(torch.cat([*ready, rest], -1), one_call(effect, values, x)) < 1e-5


def test_a_stream_is_not_flushed_before_anything_went_in() -> None:
    with pytest.raises(ValueError, match="no input yet"):
        Stream(*opened({"band": {"effect": "peak"}})).flush()


def test_no_blocks_give_no_blocks() -> None:
    effect, values = opened(chain_of("eq_comp"))
    assert list(stream(effect, values, [])) == []


# Empty blocks first, last and in between; single samples; all at once.
SPLITS = [[0, 0, 1, 0, 999, 0], [1] * 30 + [0, 970], [1000], [0, 1000, 0], [600, 400], [3, 997]]
SOON = {"default": 11.0, "range": [10, 1000]}  # ms, within the sound
QUICK = {
    "ping_pong_delay": {"ir_duration": 2, "delay": SOON},
    "fdn": {"ir_duration": 0.1, "bands": 5, "delays": [29, 37, 43]},
    "noise_reverb": {"ir_length": 2000},
    "fir": {"length": 64},
    "serial": {"pan": {"effect": "panning"}, "comp": {"effect": "compressor_expander"}},
    "parallel": {"comp": {"effect": "compressor_expander"}},
    "sends": {"delay": {"effect": "ping_pong_delay", "ir_duration": 2, "delay": SOON}},
}
FORMS = [
    *({"effect": key, **QUICK.get(key, {})} for key in EFFECTS),
    {"effect": "ping_pong_delay", **QUICK["ping_pong_delay"], "render": "realtime"},
    {"effect": "fdn", **QUICK["fdn"], "render": "realtime", "eq": {"effect": "serial", "peak": {"effect": "peak"}}},
    {"effect": "serial", "comp": {"effect": "compressor_expander"}, "fir": FIR, "reverb": NOISE, **WIDTH},
    {"effect": "compressor_expander", "lookahead": False},
    {"effect": "sends", "delay": {"effect": "ping_pong_delay", "render": "realtime", "delay": SOON}},
]


def form_id(config: dict | str) -> str:
    return config if isinstance(config, str) else " ".join(str(config[k]) for k in ("effect", "render") if k in config)


def channels_of(form: dict | str) -> int:
    return 2 if form_id(form) == "stereo_width" else 1


def opened_form(form: dict | str) -> tuple[Effect, Values]:
    """An effect of the first table by its configuration, or one of blind estimation by its word."""
    if isinstance(form, dict):
        return opened(form)
    return scattered(parse_chain(form, SR, "analysis").eval())


@pytest.mark.parametrize("form", [*FORMS, *KEYS], ids=form_id)
def test_any_split_into_blocks_equals_the_whole(form: dict | str) -> None:
    effect, values = opened_form(form)
    x = swinging_noise(1000, channels_of(form))
    expected = one_call(effect, values, x)
    for sizes in SPLITS:
        running = Stream(effect, values)
        blocks = [running.process(block) for block in x.split(sizes, -1)]
        y = torch.cat([*blocks, running.flush()], -1)
        assert {tuple(block.shape[:-1]) for block in blocks} == {tuple(expected.shape[:-1])}
        assert y.dtype == expected.dtype
        assert y.shape == expected.shape
        assert relative_rms(y, expected) < 1e-5, sizes


@pytest.mark.parametrize("form", [*FORMS, *KEYS], ids=form_id)
def test_a_sound_of_no_samples_gives_one(form: dict | str) -> None:
    effect, values = opened_form(form)
    channels = one_call(effect, values, swinging_noise(1000, channels_of(form))).shape[0]
    running = Stream(effect, values)
    nothing = torch.zeros(channels_of(form), 0)
    assert running.process(nothing).shape == running.process(nothing).shape == running.flush().shape == (channels, 0)
    assert render(effect, values, nothing).shape == (channels, 0)


def test_a_stream_that_was_flushed_is_at_its_end() -> None:
    effect, values = opened(chain_of("eq_comp"))
    running = Stream(effect, values)
    running.process(swinging_noise(100))
    running.flush()
    for go_on in (lambda: running.process(swinging_noise(100)), running.flush):
        with pytest.raises(ValueError, match="make a new Stream"):
            go_on()
