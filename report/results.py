"""The results of a trained estimator on test recordings: as Markdown, and as a figure of its errors and intervals."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from urllib.parse import quote

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reknob.data.excerpts import Excerpts, excerpt_loader
from reknob.estimation.calibration import LEVELS
from reknob.estimation.estimator import Estimator
from reknob.estimation.loaders import FileSettings, Sources, data_names
from reknob.estimation.scoring import ControlError, Kept, Scored, Scores, control_errors, score, score_kept
from reknob.report.figures import COLOURS
from reknob.report.page.examples import Group, examples, write_examples_page
from reknob.report.tables import markdown_table, scores_rows
from reknob.runtime.bars import progress_bar
from reknob.runtime.files import atomic_path, write_text
from reknob.runtime.seeds import stream_seed

ROUNDING = 1e-4  # Mel by which a render without an effect may differ from its input
BATCH = 10
KEPT_COLUMNS = ("items", "no effect", "estimate", "worse", "left alone", "Mel then", "in 68 %", "in 95 %", "error")
HEAD = """# Results

`{sfx}` → `{afx}`, encoder `{encoder}`: {items} excerpts of test recordings, processed with random parameters.
Lower is better; `params` is the mean squared error of the parameters as positions in their ranges, from 0 to 1.

{table}
"""
ERRORS = """
## Error by parameter

Mean squared error of each parameter's position in its range, with the peaks of an equaliser in order of frequency,
beside that of guessing the middle of the range. At 100 % of it and above, a value says nothing about the one that was
used; it may sound right all the same, as many settings of an equaliser sound alike.

{table}
"""
KEPT = """
## As estimate.py estimates

Estimates are left out where they are uncertain. Mean Mel without an effect and with the estimate, excerpts that it
makes worse; unprocessed excerpts that are left alone, and the Mel of all of them with their estimate; true parameters
in the intervals of 68 and 95 %; mean squared error of the parameters.

{table}
"""


def results_path(out: Path) -> Path:
    """Where the results of the estimator in the file `out` are written."""
    return out.with_name(f"{out.stem}_results.md")


def write_test_results(settings: FileSettings, estimator: Estimator, recordings: Sources) -> Scores:
    """Scores an estimator on `settings.test_items` excerpts, and writes its results beside `settings.out`."""
    n_controls, seed = len(estimator.synthesis.controls()), stream_seed(settings.seed, "excerpts", "test")
    sr, count = estimator.settings["sr"], settings.test_items
    excerpts = Excerpts(recordings, n_controls, count, seed, sr=sr, seconds=settings.seconds)
    batches = progress_bar(excerpt_loader(excerpts, BATCH, settings.workers), "test", unit="step")
    scored = score(estimator, batches, settings.seed)
    kept = score_kept(estimator, excerpts) if estimator.calibration else None
    write_results(results_path(settings.out), estimator, scored, kept)
    write_heard(results_path(settings.out), estimator, scored, excerpts, data_names(settings))
    return scored.scores


def write_heard(path: Path, estimator: Estimator, scored: Scored, excerpts: Excerpts, names: Sequence[str]) -> None:
    """Writes a page with examples of scored excerpts of every data set beside the results in the file `path`.

    `names` are those of the data sets.
    """
    mel = {system: columns["mel"] for system, columns in scored.scores.items()}
    source = torch.zeros(len(scored.true)) if scored.source is None else scored.source
    found = []
    for number, name in enumerate(names):
        chosen = (source == number).nonzero()[:, 0].tolist()
        group = Group(name, [mel["no effect"][i] for i in chosen], [mel["estimate"][i] for i in chosen], chosen)
        found += examples(estimator, excerpts, group, estimator)
    title = "{sfx} → {afx}, {encoder}".format(**estimator.settings)
    table, errors = scores_rows(scored.scores), control_errors(estimator, scored)
    write_examples_page(path.with_suffix(".html"), title, found, table=table, sr=excerpts.sr, errors=errors)


def write_results(path: Path, estimator: Estimator, scored: Scored, kept: Kept | None = None) -> None:
    """Writes results as Markdown and, where errors by parameter exist, their figure beside it, as PNG.

    Args:
        path: of the Markdown; the figure has its name with another suffix.
        kept: scores of the estimates that estimate.py keeps, of an estimator with a calibration.
    """
    errors = control_errors(estimator, scored)
    settings, items = estimator.settings, len(scored.true)
    text = HEAD.format(**settings, items=items, table=markdown_table(*scores_rows(scored.scores)))
    if kept:
        text += KEPT.format(table=markdown_table(KEPT_COLUMNS, [kept_row(kept)]))
    if errors:
        shares = [f"{100 * each.error / max(each.middle, 1e-9):.0f} %" for each in errors]
        rows = [
            [each.name, f"{each.error:.3f}", f"{each.middle:.3f}", share]
            for each, share in zip(errors, shares, strict=True)
        ]
        text += ERRORS.format(table=markdown_table(["parameter", "estimate", "middle", "share"], rows))
        picture = path.with_suffix(".png")
        # matplotlib writes in place, and an interrupted program would leave half a figure.
        with atomic_path(picture) as part:
            title = f"{settings['sfx']}, {items} test excerpts"
            results_figure(title, errors, kept.held if kept else []).savefig(part, dpi=130)
        text += f"\n![Error by parameter]({quote(picture.name)})\n"
    write_text(path, text)


def kept_row(kept: Kept) -> list[str]:
    """Scores of kept estimates as a row of the table with `KEPT_COLUMNS`."""
    none, estimate, held = np.array(kept.none), np.array(kept.estimate), np.array(kept.held)
    return [
        str(len(none)),
        f"{none.mean():.3f}",
        f"{estimate.mean():.3f}",
        f"{100 * (estimate > none + ROUNDING).mean():.0f} %",
        f"{100 * (1 - fmean(kept.touched)):.0f} %",
        f"{fmean(kept.untouched):.3f}",
        *(f"{100 * held[:, LEVELS.index(level)].mean():.0f} %" if len(held) else "" for level in (0.68, 0.95)),
        f"{np.mean(kept.error):.3f}",
    ]


def results_figure(title: str, errors: Sequence[ControlError], held: Sequence) -> Figure:
    """Errors by control and, if there are any, a reliability diagram of intervals, whose `held` are those of `Kept`."""
    height = 1.5 + 0.24 * len(errors)
    if not held:
        figure = Figure(figsize=(6.4, height), layout="constrained")
        draw_errors(figure.subplots(), errors)
    else:
        figure = Figure(figsize=(10.4, max(height, 4.2)), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[6, 4])
        draw_errors(left, errors)
        draw_reliability(right, held)
        right.set_title("intervals of each parameter, and of all (black)", fontsize=9)
        right.set(ylabel="held the true value, %", anchor="N")
    figure.suptitle(title, fontsize=11)
    return figure


def draw_errors(ax: Axes, errors: Sequence[ControlError]) -> None:
    """A line per control from the error of guessing the middle of its range to that of the estimate."""
    y, error, middle = (np.array(column) for column in (range(len(errors)), *list(zip(*errors, strict=True))[1:]))
    better = error < middle
    for rows, colour, label in ((better, COLOURS[0], "estimate"), (~better, COLOURS[1], "estimate, no better")):
        ax.hlines(y[rows], middle[rows], error[rows], color=colour, linewidth=2, alpha=0.45, zorder=1)
        if rows.any():
            ax.scatter(error[rows], y[rows], s=30, color=colour, label=label, zorder=3)
    ax.scatter(middle, y, s=60, color="0.45", marker="|", label="guessing the middle of the range", zorder=2)
    ax.set_yticks(y, [each.name for each in errors], fontsize=8)
    ax.set(ylim=(len(errors) - 0.4, -0.6), xlabel="mean squared error of the position in the range")
    ax.set_xlim(left=0)
    ax.grid(axis="x", alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=8, handletextpad=0.2)


def draw_reliability(ax: Axes, held: Sequence) -> None:
    """How often the intervals of each level held the true value: a curve per control, a thick one for all."""
    shares, levels = 100 * np.mean(held, 0, dtype=float), 100 * np.array(LEVELS)
    ax.plot([0, 100], [0, 100], color="0.7", lw=1)
    ax.plot(levels, shares, color=COLOURS[0], lw=0.7, alpha=0.6, marker=".", ms=3)
    ax.plot(levels, shares.mean(1), color="k", lw=1.8)
    ax.set(xlabel="level of the interval, %", xlim=(0, 100), ylim=(0, 100), aspect="equal")
