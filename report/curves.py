"""Curves of estimated settings: an equaliser's response, a compressor's static curve, a clipper's curve."""

from collections.abc import Callable

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from afx.chain import Normalised, Serial, cascade_coefs
from afx.effect import Effect, Values
from afx.functional import biquad
from afx.functional.units import gain_to_db

#: A chain and one set of values for it, (1,) each.
Setting = tuple[Normalised, Values]
FREQS = torch.logspace(np.log10(20), np.log10(20000), 400, dtype=torch.float64)
LEVELS = torch.linspace(-60, 0, 241)


def settings_figure(settings: dict[str, Setting]) -> Figure:
    """One panel for each kind of effect that any of the chains holds, one line for each named setting."""
    names = [name for name in PANELS if any(name in dict(chain.parts()) for chain, _ in settings.values())]
    kinds = list(dict.fromkeys(PANELS[name] for name in names))
    figure = Figure(figsize=(5 * len(kinds), 4), layout="constrained")
    axes = figure.subplots(1, len(kinds), squeeze=False)
    for axis, draw in zip(axes[0], kinds, strict=True):
        for label, (chain, values) in settings.items():
            for name, effect in chain.parts():
                if PANELS.get(name) is draw:
                    draw(axis, label, effect, values[name])
        axis.grid(alpha=0.3)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@torch.no_grad()
def draw_response(axis: Axes, label: str, effect: Serial, values: Values) -> None:
    """Gain in dB over frequency."""
    coefs = cascade_coefs(effect.parts(), values).reshape(-1, 5)
    gain_db = gain_to_db(biquad.response(coefs, FREQS, effect.sr).abs())
    axis.semilogx(FREQS, gain_db.cpu(), label=label)
    axis.set(title="equaliser", xlabel="frequency (Hz)", ylabel="gain (dB)", xlim=(20, 20000))
    # Less than 6 dB either way would make much of nothing.
    axis.update_datalim([(20, -6), (20, 6)])
    axis.autoscale_view(scalex=False)


@torch.no_grad()
def draw_static_curve(axis: Axes, label: str, effect: Effect, values: Values) -> None:
    """Output level over input level, at rest."""
    x = 10 ** (LEVELS / 20)
    curve = {name: values[name].cpu() for name in ("threshold", "ratio", "knee")}
    reduction = effect.reduction(x.reshape(1, 1, -1), **curve).flatten()
    makeup = values["makeup"].item()
    axis.plot(LEVELS, LEVELS - reduction + makeup, label=label)
    times = ", ".join(f"{name.replace('_', ' ')} {values[name].item():.0f} ms" for name in TIMES if name in values)
    axis.set(title="compressor", xlabel="input level (dB)", ylabel="output level (dB)")
    line = len(axis.texts)
    axis.text(0.97, 0.04 + 0.07 * line, times, color=f"C{line}", transform=axis.transAxes, ha="right")


@torch.no_grad()
def draw_clipper(axis: Axes, label: str, effect: Effect, values: Values) -> None:
    """Output over input."""
    x = torch.linspace(-1, 1, 201)
    one = {name: value.cpu() for name, value in values.items()}
    axis.plot(x, effect(x.reshape(1, 1, -1), **one).flatten(), label=label)
    axis.set(title="distortion", xlabel="input", ylabel="output")


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
