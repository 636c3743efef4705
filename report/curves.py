"""Figures of response curves of estimated values: equaliser, compressor, clipper."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from reknob.afx.chain import Normalised
from reknob.afx.curve import FREQUENCIES, RESPONSE, Curve
from reknob.afx.effect import Effect, Values, flatten, nest
from reknob.report.figures import frame

#: A chain and values for it, (1, *shape) each.
ChainValues = tuple[Normalised, Values]


@torch.no_grad()
def curves_figure(chains: dict[str, ChainValues], ranges: Mapping[str, Tensor | None] = MappingProxyType({})) -> Figure:
    """One panel per kind of curve that any of the chains has, one colour per chain.

    `ranges` are of the responses of equalisers at `FREQUENCIES`, (2, F) in dB, by chain; they are shaded.
    """
    drawn = {name: chain.curves(_first(values)) for name, (chain, values) in chains.items()}
    # Of all chains, as an estimated chain may have other effects than the true one.
    titles = list(dict.fromkeys(curve.title for curves in drawn.values() for curve in curves))
    figure = Figure(figsize=(5 * len(titles), 4), layout="constrained")
    axes = dict(zip(titles, figure.subplots(1, len(titles), squeeze=False)[0], strict=True))
    for number, (name, curves) in enumerate(drawn.items()):
        _draw(axes, curves, f"C{number}")
        if (ends := ranges.get(name)) is not None:
            axes[RESPONSE].fill_between(FREQUENCIES, *ends.numpy(), color=f"C{number}", alpha=0.15, lw=0)
    lines = [Line2D([], [], color=f"C{number}", label=name) for number, name in enumerate(chains)]
    figure.legend(handles=lines, loc="outside lower center", ncols=2)
    return figure


@torch.no_grad()
def curve_figures(chain: Effect, values: Values) -> dict[str, Figure]:
    """A figure per kind of curve of one chain, by title; `values` have no batch dimension."""
    curves = chain.curves(nest({name: value.cpu() for name, value in flatten(values).items()}))
    figures = {curve.title: Figure(figsize=(5, 3.6), layout="constrained") for curve in curves}
    _draw({title: figure.subplots() for title, figure in figures.items()}, curves, "C0")
    return figures


def _draw(axes: Mapping[str, Axes], curves: Iterable[Curve], colour: str) -> None:
    """Draws the curves of one chain into the panels of their titles."""
    for curve in curves:
        ax = axes[curve.title]
        ax.plot(curve.x, curve.y, colour)
        frame(ax, curve)
        ax.set(title=curve.title, xlabel=curve.x_label)
        if curve.note:
            # In the lower right corner, notes of further chains above.
            ax.text(0.97, 0.04 + 0.07 * len(ax.texts), curve.note, color=colour, transform=ax.transAxes, ha="right")


def _first(values: Values) -> Values:
    """Values (1, *shape) without the batch dimension, on the CPU."""
    return nest({name: value[0].cpu() for name, value in flatten(values).items()})
