"""Figures of response curves of estimated values: equaliser, compressor, clipper."""

import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reknob.afx.effect import Effect, Values, flatten, nest
from reknob.report.figures import frame

#: A chain and values for it, (1, *shape) each.
ChainValues = tuple[Effect, Values]


@torch.no_grad()
def curves_figure(chains: dict[str, ChainValues]) -> Figure:
    """One panel per kind of curve that any of the chains has, one colour per chain."""
    drawn = {name: chain.curves(_first(values)) for name, (chain, values) in chains.items()}
    # Of all chains, as an estimated chain may have other effects than the true one.
    titles = list(dict.fromkeys(curve.title for curves in drawn.values() for curve in curves))
    figure = Figure(figsize=(5 * len(titles), 4), layout="constrained")
    axes = dict(zip(titles, figure.subplots(1, len(titles), squeeze=False)[0], strict=True))
    for number, curves in enumerate(drawn.values()):
        for curve in curves:
            ax, colour = axes[curve.title], f"C{number}"
            ax.plot(curve.x, curve.y, colour)
            frame(ax, curve)
            ax.set(title=curve.title, xlabel=curve.x_label)
            if curve.note:
                # In the lower right corner, notes of further chains above.
                ax.text(0.97, 0.04 + 0.07 * len(ax.texts), curve.note, color=colour, transform=ax.transAxes, ha="right")
    lines = [Line2D([], [], color=f"C{number}", label=name) for number, name in enumerate(chains)]
    figure.legend(handles=lines, loc="outside lower center", ncols=2)
    return figure


def _first(values: Values) -> Values:
    """Values (1, *shape) without the batch dimension, on the CPU."""
    return nest({name: value[0].cpu() for name, value in flatten(values).items()})
