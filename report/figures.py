"""Figures of preset sets; each function takes arrays and names, and returns a matplotlib figure."""

from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import NullFormatter

from reknob.afx.curve import Curve
from reknob.analysis.statistics import area_under, components_needed, cumulative

SUFFIXES = (".png", ".svg", ".pdf")  # of files that figures are written to
COLOURS = ("#1b6ca8", "#d9731a", "#3b8f5a", "#8a4f9e")
# Line styles of the curves below, at and above a mean.
LINES = ({"color": COLOURS[0]}, {"color": "0.35", "linestyle": "--"}, {"color": COLOURS[1]})
TICKS_HZ = {20: "20", 100: "100", 1000: "1k", 10000: "10k"}
# Bins of a histogram, and histograms per row.
BINS, PANELS = 24, 4


def correlations(matrices: Mapping[str, np.ndarray], effects: Sequence[str]) -> Figure:
    """Correlation matrices (F, F) of sets, side by side; `effects` names the effect of each column."""
    figure, axes = _row(len(matrices), 5.6, 5.4)
    ends, labels = [0], []
    for label, columns in groupby(effects):
        ends.append(ends[-1] + len(list(columns)))
        labels.append(label)
    middles = np.add(ends[1:], ends[:-1]) / 2 - 0.5
    # Every second label is moved outwards, as those of effects only two columns wide would overlap.
    labels = [label + "          " * (i % 2) for i, label in enumerate(labels)]
    for ax, (name, matrix) in zip(axes, matrices.items(), strict=True):
        image = ax.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        for end in ends[1:-1]:
            ax.axhline(end - 0.5, color="black", linewidth=0.3)
            ax.axvline(end - 0.5, color="black", linewidth=0.3)
        ax.set_xticks(middles, labels, rotation=90, fontsize=7)
        ax.set_yticks(middles, labels, fontsize=7)
        ax.set_title(name)
    # The last image stands for all, which share one scale.
    figure.colorbar(image, ax=axes, label="Spearman's ρ", shrink=0.8)
    return figure


def effect_correlations(matrices: Mapping[str, np.ndarray], labels: Sequence[str]) -> Figure:
    """Mean |correlation| (G, G) between the parameters of two effects, printed in the cells; sets side by side."""
    figure, axes = _row(len(matrices), 5.6, 5.2)
    highest = max(np.nanmax(matrix) for matrix in matrices.values())
    for ax, (name, matrix) in zip(axes, matrices.items(), strict=True):
        # The matrix is symmetric: the upper half would repeat the lower one.
        lower = np.where(np.tri(len(labels), dtype=bool), matrix, np.nan)
        image = ax.imshow(lower, cmap="Blues", vmin=0, vmax=highest)
        for (i, j), value in np.ndenumerate(lower):
            if np.isfinite(value):
                # Black is hard to read on the darkest cells.
                shade = "white" if value > 0.6 * highest else "black"
                ax.text(j, i, f"{value:.2f}".lstrip("0"), ha="center", va="center", fontsize=7, color=shade)
        ax.set_xticks(range(len(labels)), labels, rotation=90)
        ax.set_yticks(range(len(labels)), labels)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_title(name)
    figure.colorbar(image, ax=axes, label="mean |ρ| over pairs of parameters", shrink=0.8)
    return figure


def strongest(pairs: Sequence[str], values: Mapping[str, Sequence[float]]) -> Figure:
    """The correlations of named pairs of parameters, a line per pair, a marker per set."""
    figure = Figure(figsize=(8, 0.8 + 0.27 * len(pairs)), layout="constrained")
    ax = figure.subplots()
    y = np.arange(len(pairs))
    table = np.array(list(values.values()))
    ax.hlines(y, table.min(0), table.max(0), color="0.75", linewidth=2, zorder=1)
    for (name, row), colour, marker in zip(values.items(), COLOURS, "osD^", strict=False):
        ax.scatter(row, y, s=34, c=colour, marker=marker, label=name, zorder=2)
    ax.axvline(0, color="0.5", linewidth=0.8)
    ax.set_yticks(y, pairs, fontsize=8)
    ax.invert_yaxis()
    ax.set(xlim=(-1, 1), xlabel="Spearman's ρ")
    ax.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper right", ncols=len(values))
    return figure


def variance(shares: Mapping[str, np.ndarray], level: float = 0.99) -> Figure:
    """Cumulative variance over the number of components, both in percent, with the point where it reaches `level`.

    `shares` are the fractions (K,) of the variance that each component explains, by the name of the set.
    """
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    ax = figure.subplots()
    for (name, share), colour in zip(shares.items(), COLOURS, strict=False):
        # In percent, as sets may have different numbers of components.
        x = np.linspace(0, 100, len(share) + 1)
        needed = components_needed(share, level)
        label = f"{name}: {100 * level:g} % by {x[needed]:.2f} %, area {100 * area_under(share):.1f} %"
        ax.plot(x, 100 * cumulative(share), color=colour, label=label)
        ax.plot(x[needed], 100 * cumulative(share)[needed], "o", color=colour, markersize=5)
    ax.axhline(100 * level, color="0.5", linewidth=0.8, linestyle="--")
    ax.set(xlim=(0, 100), ylim=(0, 102), xlabel="components (%)", ylabel="cumulative variance (%)")
    ax.grid(alpha=0.3)
    ax.legend(loc="lower right")
    return figure


def components(rows: Mapping[str, Mapping[str, Sequence[Curve]]]) -> Figure:
    """A row of panels per component: the curves of the effects, drawn below, at and above the component's mean."""
    width = max(len(drawn) for states in rows.values() for drawn in states.values())
    size = (4.2 * width, 2.5 * len(rows) + 0.4)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.15))
    grid = figure.subplots(len(rows), width, sharex="col", sharey="col", squeeze=False)
    for axes, (title, states) in zip(grid, rows.items(), strict=True):
        for (state, drawn), line in zip(states.items(), LINES, strict=True):
            for ax, curve in zip(axes, drawn, strict=True):
                ax.plot(curve.x, curve.y, **line, label=state)
                frame(ax, curve)
        axes[0].annotate(
            title, (-0.24, 0.5), xycoords="axes fraction", rotation=90, ha="right", va="center", weight="bold"
        )
    # Every row has the same effects, so that the last one's curves give the titles of all.
    for ax, curve in zip(grid[0], drawn, strict=True):
        ax.set_title(curve.title)
    for ax, curve in zip(grid[-1], drawn, strict=True):
        ax.set_xlabel(curve.x_label)
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return figure


def frame(ax: Axes, curve: Curve) -> None:
    """Sets limits, label and grid of a curve's axes; a frequency axis is logarithmic with ticks at round numbers."""
    ax.set(xlim=(curve.x[0], curve.x[-1]), ylabel=curve.y_label)
    if curve.log_x:
        ax.set_xscale("log")
        ax.set_xticks(list(TICKS_HZ), list(TICKS_HZ.values()))
        ax.xaxis.set_minor_formatter(NullFormatter())
    # A correction of a tenth of a dB would otherwise fill the panel.
    if curve.least:
        ax.update_datalim([(curve.x[0], edge) for edge in curve.least])
        ax.autoscale_view(scalex=False)
    ax.grid(alpha=0.3)


def histograms(values: Mapping[str, Mapping[str, np.ndarray]], units: Mapping[str, str]) -> Figure:
    """Histograms in percent of the presets, a panel per parameter, of `values[set][parameter]` (N,)."""
    names = list(next(iter(values.values())))
    wide = min(PANELS, len(names))
    tall = -(-len(names) // wide)
    figure = Figure(figsize=(3.4 * wide, 2.3 * tall + 0.4), layout="constrained")
    axes = figure.subplots(tall, wide, squeeze=False).ravel()
    for ax, name in zip(axes, names, strict=False):
        # The same edges for all sets, and percent, so that sets of different sizes compare.
        edges = np.histogram_bin_edges(np.concatenate([columns[name] for columns in values.values()]), BINS)
        for (label, columns), colour in zip(values.items(), COLOURS, strict=False):
            weights = np.full(len(columns[name]), 100 / len(columns[name]))
            ax.hist(columns[name], edges, weights=weights, color=colour, alpha=0.55, label=label)
        ax.set(xlabel=f"{name} ({units[name]})" if units[name] else name)
    for ax in axes[::wide]:
        ax.set_ylabel("presets (%)")
    for ax in axes[len(names) :]:
        ax.remove()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=len(values))
    return figure


def preset_map(places: np.ndarray, names: Sequence[str], shares: Sequence[float]) -> Figure:
    """Presets at their places (N, 2) along two principal components, in standard deviations, with their names.

    The rings hold 39 and 86 % of a Gaussian. `shares` are the components' fractions of the variance.
    """
    figure = Figure(figsize=(7, 6.4), layout="constrained")
    ax = figure.subplots()
    angle = np.linspace(0, 2 * np.pi, 200)
    for radius in (1, 2):
        ax.plot(radius * np.cos(angle), radius * np.sin(angle), color="0.8", linewidth=0.8)
    ax.scatter(places[:, 0], places[:, 1], s=14, color=COLOURS[0])
    for (x, y), name in zip(places.tolist(), names, strict=True):
        ax.annotate(name, (x, y), xytext=(3, 2), textcoords="offset points", fontsize=6, color="0.35")
    ax.set_xlabel(f"PC1, {100 * shares[0]:.1f} % of the variance (standard deviations)")
    ax.set_ylabel(f"PC2, {100 * shares[1]:.1f} % of the variance (standard deviations)")
    ax.set_aspect("equal", adjustable="datalim")
    return figure


def _row(count: int, width: float, height: float) -> tuple[Figure, Sequence[Axes]]:
    # Not of pyplot, which keeps every figure in memory until it is closed.
    figure = Figure(figsize=(width * count, height), layout="constrained")
    return figure, figure.subplots(1, count, squeeze=False)[0]
