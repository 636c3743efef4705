"""The presets and the live audio of the local web page: where sliders lead, and what is heard while they move."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import Any

import pytest
import torch
from takes import SR, take

from reknob.afx.effect import flatten
from reknob.afx.stream import render
from reknob.app.live import BLOCK, WARM_UP_S, Live, live_chain
from reknob.app.points import Point
from reknob.app.presets import DocumentSource, SetSource, state_of
from reknob.formats.presets import to_vectors


@pytest.fixture(scope="module")
def own() -> SetSource:
    return SetSource("presets/own")


def scalars(own: SetSource, point: Point) -> dict[str, torch.Tensor]:
    return flatten(own.values(point))


def test_sliders_reach_presets_and_go_between_them(own: SetSource) -> None:
    first, other = scalars(own, Point(row=1)), scalars(own, Point(row=2))
    stored = flatten(own.set.presets[1].values(own.effect))
    assert all(torch.equal(first[name], stored[name]) for name in stored)
    there = scalars(own, Point(row=1, other=2, morph=1.0))
    assert all(torch.allclose(there[name], other[name], 1e-4, 1e-6) for name in other)
    half = float(scalars(own, Point(row=1, other=2, morph=0.5))["comp.makeup"])
    assert min(first["comp.makeup"], other["comp.makeup"]) < half < max(first["comp.makeup"], other["comp.makeup"])


def test_a_component_moves_along_its_axis_by_standard_deviations(own: SetSource) -> None:
    assert own.components is not None
    moved = [own.raws(Point(row=3, components=steps)) for steps in ((), (0.0, 2.0))]
    vectors = to_vectors([replace(own.set.presets[3], raws=raws) for raws in moved], own.effect)
    change = own.components.whiten(vectors[:, own.set.mask].double().numpy())
    assert change[1, 1] - change[0, 1] == pytest.approx(2.0, abs=1e-3)
    assert abs(change[1, 0] - change[0, 0]) < 1e-3


def test_amount_and_changes_come_last_and_are_documented(own: SetSource) -> None:
    off = scalars(own, Point(amount=0.0, changes={"peak1.freq": 500.0}))
    assert float(off["comp.makeup"]) == float(off["peak1.gain"]) == 0.0
    point = Point(row=4, components=(1.0,), changes={"peak1.freq": 500.0})
    document = own.document(point)
    values = scalars(own, point)
    assert all(torch.equal(document.values[name], values[name]) for name in document.values)
    assert document.provenance["changes"] == "component 1 +1, peak1.freq=500"
    shown = state_of(DocumentSource(document, "mine"), Point())
    freq = next(value for value in shown["values"] if value["name"] == "peak1.freq")
    assert (freq["value"], freq["unit"], freq["log"]) == (500.0, "Hz", True)
    assert [curve["title"] for curve in shown["curves"]][-1] == "Echoes"


def test_sliders_hold_the_values_of_the_set(own: SetSource) -> None:
    for row in range(0, len(own.set.presets), 4):
        for value in state_of(own, Point(row))["values"]:
            assert value["lo"] <= value["value"] <= value["hi"]
            assert value["lo"] < value["hi"]


class AtOnce(Executor):
    """Runs what is submitted at once, or when `ready` is called."""

    def __init__(self, *, later: bool = False) -> None:
        self.later, self.waiting = later, []

    def submit(self, work: Callable, /, *args: object, **kwargs: object) -> Future:
        future: Future = Future()
        self.waiting.append(lambda: future.set_result(work(*args, **kwargs)))
        if not self.later:
            self.ready()
        return future

    def ready(self) -> None:
        self.waiting.pop()()


def live_eq(executor: Executor | None = None) -> tuple[Live, torch.Tensor]:
    chain = live_chain({"eq": {"effect": "peak"}, "pan": {"effect": "panning"}}, SR)
    dry = take(1.0)
    return Live(chain, dry, eq(0.0), executor or AtOnce()), dry


def eq(gain: float) -> dict[str, Any]:
    values = {"gain": gain, "freq": 1000.0, "Q": 1.0}
    return {"eq": {k: torch.tensor(v) for k, v in values.items()}, "pan": {"pan": torch.tensor(0.5)}}


def test_blocks_are_those_of_one_call_and_go_round() -> None:
    live, dry = live_eq()
    blocks = [live.block() for _ in range(14)]
    y = torch.cat([block for block, _ in blocks], -1)
    twice = torch.cat([dry, dry], -1)
    wanted = render(live.chain, eq(0.0), twice)[:, : y.shape[-1]]
    assert torch.equal(y[0], twice[0, : y.shape[-1]])
    # After the fade-in of the first block.
    assert torch.allclose(y[1:, 256:], wanted[:, 256:], atol=1e-6)
    assert blocks[11][1] == pytest.approx((11 * BLOCK - SR) / SR)


def test_new_values_are_faded_to_while_blocks_go_on() -> None:
    executor = AtOnce(later=True)
    live, dry = live_eq(executor)
    live.block()
    live.set_values(eq(3.0))
    live.set_values(eq(12.0))  # the newest of several
    before = [live.block()[0] for _ in range(2)]  # the new stream is not ready yet
    executor.ready()
    fade, after = live.block()[0], live.block()[0]
    loop = torch.cat([dry, dry], -1)
    old, new = (render(live.chain, eq(gain), loop) for gain in (0.0, 12.0))
    assert torch.allclose(torch.cat(before, -1)[1:], old[:, BLOCK : 3 * BLOCK], atol=1e-5)
    ramp = torch.linspace(0, 1, BLOCK)
    part = slice(3 * BLOCK, 4 * BLOCK)
    assert torch.allclose(fade[1:], old[:, part].lerp(new[:, part], ramp), atol=1e-4)
    assert torch.allclose(after[1:], new[:, 4 * BLOCK : 5 * BLOCK], atol=1e-4)
    assert WARM_UP_S * SR > 3 * BLOCK  # so that the warm-up began with the recording


def test_a_jump_begins_softly_at_its_place() -> None:
    live, dry = live_eq()
    live.block()
    live.jump(0.5)
    y, place = live.block()
    assert place == 0.5
    assert y[1, 0] == 0
    assert torch.equal(y[0], dry[0, SR // 2 : SR // 2 + BLOCK])
