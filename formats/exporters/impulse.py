"""Impulse responses of the linear parts of a preset, for any convolver."""

import torch
from torch import Tensor

from reknob.afx.effect import HasResponse
from reknob.afx.eq import Biquad
from reknob.afx.reverb import FIR
from reknob.formats.exporters.parts import Export, Rig, Step, band_of, dynamics_of, lacks
from reknob.runtime.errors import UsageError

SETTLES_S = 1.0  # in which a filter at 16 Hz falls by more than 120 dB
FLOOR = 1e-6  # of the peak, -120 dB, below which a response is cut off


def equaliser(rig: Rig) -> Export:
    """The equaliser, mono."""
    return _export(rig, [step for step in rig.steps if isinstance(step.effect, (Biquad, FIR))])


def space(rig: Rig) -> Export:
    """Delay, reverb and panning with the direct sound, from mono to stereo: left and right of a 2-channel file."""
    return _export(rig, _space(rig))


def true_stereo(rig: Rig) -> Export:
    """The same as four channels, left to left, left to right, right to left, right to right, for stereo tracks.

    As in this project's render, both inputs are averaged: each path is half the response.
    """
    export = _export(rig, _space(rig))
    assert isinstance(export.content, Tensor)
    return Export(export.content.expand(2, -1).repeat(2, 1) / 2, export.lacking)


def linear(rig: Rig) -> Export:
    """All linear parts in series: the chain without its dynamics and distortion."""
    return _export(rig, [step for step in rig.steps if step.is_linear])


def _space(rig: Rig) -> list[Step]:
    return [step for step in rig.steps if has_space(step)]


def has_space(step: Step) -> bool:
    """Whether a step belongs to the response of `space`."""
    return step.is_linear and not isinstance(step.effect, (Biquad, FIR))


def in_two(rig: Rig) -> tuple[list[Step], list[Step], list[str]]:
    """The steps before delay, reverb or panning; those; and lines on what follows them and is none of them."""
    first = next((i for i, step in enumerate(rig.steps) if has_space(step)), len(rig.steps))
    after = rig.steps[first:]
    lacking = [f"{step}: not in this export, as it follows the stereo part" for step in after if not has_space(step)]
    return list(rig.steps[:first]), [step for step in after if has_space(step)], lacking


def space_response(rig: Rig) -> Tensor:
    """The response of `space`, (2, T)."""
    return response(_space(rig), rig.sr).expand(2, -1)


@torch.no_grad()
def response(steps: list[Step], sr: int) -> Tensor:
    """The response (C, T) of linear steps in series to a mono impulse, cut off where it stays below FLOOR of its
    peak."""
    length = sum(_length(step, sr) for step in steps) + 1
    x = torch.zeros(1, 1, length)
    x[..., 0] = 1
    for step in steps:
        x = step.effect(x, **step.values)
    x = x[0]
    loud = (x.abs() > FLOOR * x.abs().max()).any(0).nonzero()
    return x[:, : int(loud[-1]) + 1 if len(loud) else 1]


def _length(step: Step, sr: int) -> int:
    """Samples in which the response of a step ends."""
    if isinstance(step.effect, Biquad):
        return round(SETTLES_S * sr)
    if isinstance(step.effect, HasResponse):
        return step.effect.response(**step.values).shape[-1] - 1
    return len(step.values["taps"]) if isinstance(step.effect, FIR) else 0


def _export(rig: Rig, steps: list[Step]) -> Export:
    if not steps:
        raise UsageError("the preset has no such part; --to recall lists what it has")
    lacking = [
        f"{step}: not in this impulse response" if step.is_linear else lacks(step)
        for step in rig.steps
        if step not in steps
    ]
    mixed = {bool(dynamics_of(step)) for step in rig.steps} == {True, False} and any(map(band_of, steps))
    if mixed:
        lacking.append("the place of the compressor among the linear parts, which are joined here")
    return Export(response(steps, rig.sr), lacking)
