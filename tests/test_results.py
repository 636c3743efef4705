"""The results of a trained estimator: errors by parameter, tables and the figure."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from reknob.estimation.calibration import LEVELS
from reknob.estimation.estimator import Estimator
from reknob.estimation.scoring import ControlError, Kept, Scored, control_errors
from reknob.report.results import kept_row, results_figure, write_results

SYSTEMS = {"no effect": {"mel": [1.0, 2.0, 6.0]}, "estimate": {"mel": [0.5, 0.5, 2.0], "params": [0.1, 0.1, 0.1]}}
#: Of two parameters on four excerpts: the first one's intervals hold its value in half of them, the second's always.
KEPT = Kept(
    none=[1.0, 1.0, 1.0, 1.0],
    estimate=[0.5, 1.00005, 1.5, 0.5],
    untouched=[0.0, 0.0, 0.0, 0.4],
    touched=[False, False, False, True],
    held=[[[i < 2, True]] * len(LEVELS) for i in range(4)],
    error=[[0.0, 0.2]] * 4,
    known=[[True, False]] * 4,
)


def scored(true: Tensor, estimate: Tensor) -> Scored:
    return Scored(SYSTEMS, true, estimate)


def test_errors_by_parameter_stand_beside_those_of_the_middle() -> None:
    estimator = Estimator(sfx="dist", afx="dist", encoder="percentiles")
    true = torch.tensor([[0.0, 0.5, 1.0], [1.0, 0.5, 0.5]])
    found = control_errors(estimator, scored(true, true + torch.tensor([0.0, 0.1, -0.2])))
    assert [each.name for each in found] == ["dist.drive", "dist.offset", "dist.hardness"]
    assert np.allclose([each.error for each in found], [0.0, 0.01, 0.04])
    assert np.allclose([each.middle for each in found], [0.25, 0.0, 0.125])


def test_exchanged_peaks_are_no_error() -> None:
    estimator = Estimator(sfx="peq", afx="peq", encoder="percentiles")
    chain, mappings = estimator.synthesis, {name: p.mapping for name, p in estimator.synthesis.walk()}

    def controls(*freqs_and_gains: tuple[float, float]) -> Tensor:
        q = torch.full((1, 15), 0.5)
        for i, (freq, gain) in enumerate(freqs_and_gains, start=1):
            names = (f"peq.peak{i}.freq", f"peq.peak{i}.gain")
            for name, value in zip(names, (freq, gain), strict=True):
                q[0, chain.controls().index(name)] = mappings[name].to_unit(torch.tensor(value))
        return q

    # Frequencies in Hz in the ranges of both peaks, gains in dB.
    one, other = controls((900.0, -6.0), (1500.0, 9.0)), controls((1500.0, 9.0), (900.0, -6.0))
    assert (one - other).abs().max() > 0.3
    assert max(each.error for each in control_errors(estimator, scored(one, other))) < 1e-6


def test_results_hold_means_medians_and_shares(tmp_path: Path) -> None:
    estimator = Estimator(sfx="dist", afx="dist", encoder="percentiles")
    true = torch.tensor([[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    write_results(tmp_path / "my results.md", estimator, scored(true, true.lerp(torch.tensor(0.5), 0.2)), KEPT)
    lines = (tmp_path / "my results.md").read_text().splitlines()
    assert "| no effect | 3.000 / 2.000 | - |" in lines and "| estimate | 1.000 / 0.500 | 0.100 / 0.100 |" in lines
    assert "| dist.offset | 0.010 | 0.250 | 4 % |" in lines
    assert f"| {' | '.join(kept_row(KEPT))} |" in lines and lines[-1] == "![Error by parameter](my%20results.png)"
    assert (tmp_path / "my results.png").read_bytes().startswith(b"\x89PNG")


def test_chains_with_other_parameters_have_no_errors_and_no_figure(tmp_path: Path) -> None:
    estimator = Estimator(sfx="dist", afx="taylor", encoder="percentiles")
    write_results(tmp_path / "results.md", estimator, scored(torch.rand(2, 3), torch.rand(2, 24)))
    assert "Error by parameter" not in (tmp_path / "results.md").read_text()
    assert not (tmp_path / "results.png").exists()


def test_what_is_kept_of_estimates_is_one_row() -> None:
    # Made worse is one of four: rounding is no worsening.
    assert kept_row(KEPT) == ["4", "1.000", "0.875", "25 %", "75 %", "0.100", "75 %", "75 %", "0.100"]


def test_a_reliability_diagram_is_drawn_of_intervals_alone() -> None:
    errors = [ControlError("dist.drive", 0.01, 0.08), ControlError("dist.offset", 0.2, 0.1)]
    (alone,) = results_figure("dist", errors, []).axes
    assert [label.get_text() for label in alone.get_yticklabels()] == ["dist.drive", "dist.offset"]
    assert alone.get_ylim()[0] > alone.get_ylim()[1], "the first parameter is at the top"
    _, diagram = results_figure("dist", errors, KEPT.held).axes
    *_, thick = diagram.lines
    assert np.allclose(thick.get_xdata(), 100 * np.array(LEVELS)) and thick.get_ydata() == pytest.approx(75.0)
