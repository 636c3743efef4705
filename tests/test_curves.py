"""The curves of settings show what the effects do."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy.signal import freqz

from reknob.afx.chain import cascade_coefs
from reknob.afx.curve import FREQUENCIES, LEVELS
from reknob.afx.functional import biquad
from reknob.afx.registry import parse_chain
from reknob.report.curves import ChainValues, curves_figure

SR = 44100


def setting(keys: str, seed: int) -> ChainValues:
    chain = parse_chain(keys, SR, "analysis")
    generator = torch.Generator().manual_seed(seed)
    return chain, chain.from_unit(torch.rand(1, len(chain.controls()), generator=generator))


def panels(figure: Figure) -> dict[str, list]:
    return {axis.get_title(): axis.get_lines() for axis in figure.axes}


def test_the_response_of_biquads_is_that_of_scipy() -> None:
    chain, values = setting("peq", 0)
    coefs = cascade_coefs(chain.peq.parts(), values["peq"])[0]
    b, a = coefs[:, :3].numpy(), np.insert(coefs[:, 3:].numpy(), 0, 1, axis=1)
    expected = np.prod([freqz(*band, worN=FREQUENCIES, fs=SR)[1] for band in zip(b, a, strict=True)], axis=0)
    assert np.allclose(biquad.response(coefs, torch.from_numpy(FREQUENCIES), SR).numpy(), expected, rtol=1e-9)


def test_equalisers_of_one_chain_make_one_curve_together() -> None:
    chain, values = setting("geq_peq", 1)
    (line,) = panels(curves_figure({"both": (chain, values)}))["Equaliser"]
    alone = [curves_figure({"one": (parse_chain(key, SR, "analysis"), values)}) for key in ("geq", "peq")]
    parts = [panels(figure)["Equaliser"][0].get_ydata() for figure in alone]
    assert np.allclose(line.get_ydata(), sum(parts))


def test_a_compressor_s_curve_is_its_threshold_ratio_and_makeup() -> None:
    chain, _ = setting("comp", 0)
    values = {"comp": {p.name: torch.tensor([p.default]) for p in chain.comp.params}}
    (line,) = panels(curves_figure({"default": (chain, values)}))["Compressor"]
    assert line.get_ydata()[0] == pytest.approx(LEVELS[0] + 10, abs=1e-4)
    assert line.get_ydata()[-1] == pytest.approx(-20 + 20 / 4 + 10, abs=1e-4)


def test_a_setting_keeps_its_colour_in_every_panel_and_the_legend() -> None:
    figure = curves_figure({"one": setting("peq", 0), "other": setting("peq_comphalf_dist", 1)})
    one, other = map(to_hex, ("C0", "C1"))
    drawn = {title: [to_hex(line.get_color()) for line in lines] for title, lines in panels(figure).items()}
    assert drawn == {"Equaliser": [one, other], "Compressor": [other], "Distortion": [other]}
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["one", "other"]
    assert [to_hex(line.get_color()) for line in legend.get_lines()] == [one, other]


def test_a_range_of_responses_is_shaded() -> None:
    ends = torch.stack([torch.full((len(FREQUENCIES),), gain) for gain in (-4.0, 5.0)])
    chains = {"one": setting("peq", 0), "other": setting("peq", 1)}
    (ax,) = curves_figure(chains, {"one": ends, "other": None}).axes
    (shade,) = ax.collections
    assert (shade.get_datalim(ax.transData).y0, shade.get_datalim(ax.transData).y1) == pytest.approx((-4, 5))
