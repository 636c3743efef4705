"""Curves of estimated settings: an equaliser's response, a compressor's static curve, a clipper's curve."""

from collections.abc import Callable

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from afx.chain import Normalised, cascade_coefs
from afx.effect import Effect, Values
from afx.functional import biquad
from afx.functional.units import gain_to_db

#: A chain and one set of values for it, (1,) each.
Setting = tuple[Normalised, Values]
Effects = list[tuple[Effect, Values]]
FREQS = torch.logspace(np.log10(20), np.log10(20000), 400, dtype=torch.float64)
LEVELS = torch.linspace(-60, 0, 241)


def settings_figure(settings: dict[str, Setting]) -> Figure:
    """One panel for each kind of effect that any of the chains holds, one colour for each named setting."""
    held = [[name for name, _ in chain.parts()] for chain, _ in settings.values()]
    kinds = list(dict.fromkeys(PANELS[name] for name in PANELS if any(name in names for names in held)))
    figure = Figure(figsize=(5 * len(kinds), 4), layout="constrained")
    axes = figure.subplots(1, len(kinds), squeeze=False)[0]
    for axis, draw in zip(axes, kinds, strict=True):
        for colour, (chain, values) in enumerate(settings.values()):
            effects = [(effect, values[name]) for name, effect in chain.parts() if PANELS[name] is draw]
            if effects:
                draw(axis, f"C{colour}", effects)
        axis.grid(alpha=0.3)
    lines = [Line2D([], [], color=f"C{colour}", label=label) for colour, label in enumerate(settings)]
    figure.legend(handles=lines, loc="outside lower center", ncols=2)
    return figure


@torch.no_grad()
def draw_response(axis: Axes, colour: str, effects: Effects) -> None:
    """Gain in dB over frequency, of all equalisers in series."""
    coefs = torch.cat([cascade_coefs(effect.parts(), values).reshape(-1, 5) for effect, values in effects]).cpu()
    axis.semilogx(FREQS, gain_to_db(biquad.response(coefs, FREQS, effects[0][0].sr).abs()), colour)
    axis.set(title="equaliser", xlabel="frequency (Hz)", ylabel="gain (dB)", xlim=(20, 20000))
    # Less than 6 dB either way would make much of nothing.
    axis.update_datalim([(20, -6), (20, 6)])
    axis.autoscale_view(scalex=False)


@torch.no_grad()
def draw_static_curve(axis: Axes, colour: str, effects: Effects) -> None:
    """Output level over input level of each compressor at rest, and its times in words."""
    axis.set(title="compressor", xlabel="input level (dB)", ylabel="output level (dB)")
    x = 10 ** (LEVELS / 20).reshape(1, 1, -1)
    for effect, values in effects:
        reduction = effect.reduction(x, *(values[name].cpu() for name in ("threshold", "ratio", "knee")))
        axis.plot(LEVELS, LEVELS - reduction.flatten() + values["makeup"].item(), colour)
        times = [f"{name.replace('_', ' ')} {values[name].item():.0f} ms" for name in TIMES if name in values]
        place = (0.97, 0.04 + 0.07 * len(axis.texts))
        axis.text(*place, ", ".join(times), color=colour, transform=axis.transAxes, ha="right")


@torch.no_grad()
def draw_clipper(axis: Axes, colour: str, effects: Effects) -> None:
    """Output over input of each waveshaper."""
    axis.set(title="distortion", xlabel="input", ylabel="output")
    x = torch.linspace(-1, 1, 201)
    for effect, values in effects:
        one = {name: value.cpu() for name, value in values.items()}
        axis.plot(x, effect(x.reshape(1, 1, -1), **one).flatten(), colour)


TIMES = ("attack", "release", "time_constant")
PANELS: dict[str, Callable] = {
    "geq": draw_response,
    "peq": draw_response,
    "comp": draw_static_curve,
    "compsimple": draw_static_curve,
    "dist": draw_clipper,
    "taylor": draw_clipper,
    "chebyshev": draw_clipper,
}
