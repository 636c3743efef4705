"""The notebook: executed on small sets of our own, its code on the published ones; its figures of other chains."""

import contextlib
import io
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from nbformat import NotebookNode

from reknob.afx.effect import Knobs
from reknob.afx.registry import build
from reknob.analysis.features import effect_curves, load_sets
from reknob.formats.presets import Preset, write_presets
from reknob.report import figures
from reknob.runtime.settings import read_yaml

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "presets"
SMALL = {
    "band": {"effect": "peak", "gain": {"default": 6.0}},
    "comp": {"effect": "compressor_expander", "makeup": {"default": 3.0}},
    "sends": {"effect": "sends", "reverb": {"effect": "fdn", "ir_duration": 2.0}},
}


def write_set(folder: Path, config: dict, rows: int, seed: int) -> Path:
    """A set of presets scattered about the chain's defaults."""
    chain = build(config, 44100)
    generator = torch.Generator().manual_seed(seed)
    presets = []
    for row in range(rows):
        state = Knobs(chain, generator).state_dict()
        raws = {name: raw + 0.3 * torch.randn(raw.shape, generator=generator) for name, raw in state.items()}
        presets.append(Preset(row, f"/data/song{row}/dry.wav", f"/data/song{row}/wet.wav", 0, raws))
    write_presets(folder, presets, chain, chain=config, rejected={})
    return folder


def notebook_about(first: Path, second: Path) -> NotebookNode:
    notebook = nbformat.read(ROOT / "visualisation.ipynb", as_version=4)
    (cell,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    cell.source = f"FIRST, SECOND = {str(first)!r}, {str(second)!r}"
    return notebook


#: A result while a bar is drawn, as at the end of a song.
BAR = """
from reknob.runtime.bars import progress_bar
from reknob.runtime.output import result
with progress_bar(title="fit", total=9, unit="step") as bar:
    for step in range(9):
        bar.set_postfix(loss="0.5", refresh=False)
        bar.update()
        bar.refresh()
        if step == 4:
            result("a song")
"""


def executed(monkeypatch: pytest.MonkeyPatch, first: Path, second: Path) -> tuple[str, int, str]:
    """What the notebook prints about two sets, how many figures it shows, and the bar of another cell."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = notebook_about(first, second)
    notebook.cells.append(nbformat.v4.new_code_cell(BAR))
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}).execute()
    outputs: list[NotebookNode] = [output for c in notebook.cells for output in c.get("outputs", [])]
    text = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    bar = "".join(output.text for output in notebook.cells[-1].outputs if output.get("name") == "stderr")
    return text, sum("image/png" in output.get("data", {}) for output in outputs), bar


def printed(first: Path, second: Path) -> str:
    """What the notebook's code prints about two sets, run here: without a kernel's start, figures not drawn as PNG."""
    text, names = io.StringIO(), {"display": lambda _: None}
    with contextlib.redirect_stdout(text):
        for cell in notebook_about(first, second).cells:
            if cell.cell_type == "code":
                exec(cell.source.replace("%matplotlib inline", ""), names)  # noqa: S102 - code of our own notebook
    return text.getvalue()


def test_the_notebook_runs_on_two_small_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_yaml(ROOT / "presets" / "fx_config.yaml")
    config = {name: whole[name] for name in ("peak1", "comp", "sends")}  # most of the time goes into drawing
    sets = [write_set(tmp_path / name, config, rows, seed) for seed, (name, rows) in enumerate((("a", 20), ("b", 24)))]
    text, shown, bar = executed(monkeypatch, *sets)
    assert shown == 7
    assert "9/9" in bar and bar.count("\r") >= 9 and bar.count("\n") == 1 and text.endswith("a song\n")
    assert "a, 14 pairs of effects" in text and "strongest in b" in text and "b on a" in text
    assert "a: the first 5 whitened components of 20 presets" in text
    assert "b: the first 6 whitened components of 24 presets" in text


@pytest.mark.skipif(not SHARED.is_dir(), reason="the published preset sets are not here")
def test_the_notebook_prints_the_published_numbers() -> None:
    text = printed(SHARED / "internal", SHARED / "medleydb")
    for number in ("59.23 %", "65.22 %", "76.92 %", "91.0 %", "88.5 %", "87.6 %", "PK2–HS 0.222", "HP–HP 0.200"):
        assert number in text
    assert "13.86 % 9.72 % 8.22 % 7.18 %" in " ".join(text.split())
    internal = text[text.index("the first 74 whitened components of 365 presets") :]
    assert internal[: internal.index("medleydb")].count("p = 0.0\n") == 2


def test_the_notebook_is_stored_without_results() -> None:
    notebook = nbformat.read(ROOT / "visualisation.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(c.outputs or c.execution_count for c in notebook.cells if c.cell_type == "code")


def test_curves_show_what_the_effects_do(tmp_path: Path) -> None:
    (features,) = load_sets(write_set(tmp_path / "small", SMALL, 4, 0)).values()
    given = {"band.gain": 6.0, "comp.cmp_threshold": -20.0, "comp.exp_threshold": -50.0, "comp.makeup": 3.0}
    row = np.array([given.get(name, 0.0) for name in features.columns])
    equaliser, compressor, decay = effect_curves(features, row)
    assert equaliser.y.max() == pytest.approx(6, abs=0.2)
    assert equaliser.x[equaliser.y.argmax()] == pytest.approx((33 + 17500) / 2, rel=0.02)
    # Raw numbers of 0: a ratio of 10.5 above -20 dB, and of 0.5 below -50 dB.
    gain = np.interp([-70, -30, -10], compressor.x, compressor.y)
    assert gain == pytest.approx([3 - 20, 3, 3 - 10 * (1 - 1 / 10.5)], abs=0.01)
    # Half of the largest decay factor of the shortest line, 997 samples.
    gamma = 0.5 * 10 ** (-3 * 997 / (44100 * 0.75 * 2))
    assert decay.y == pytest.approx(-3 * 997 / 44100 / np.log10(gamma), rel=1e-5)


def test_figures_are_drawn_of_chains_with_less(tmp_path: Path) -> None:
    chain = {"band": {"effect": "peak"}}
    (features,) = load_sets(write_set(tmp_path / "small", chain, 4, 0)).values()
    drawn = effect_curves(features, features.rows[0])
    figure = figures.components({"PC1": {"below": drawn, "mean": drawn, "above": drawn}})
    assert [ax.get_title() for ax in figure.axes] == ["Equaliser"]
    values = features.values()
    assert len(figures.histograms({"small": values}, features.units()).axes) == 3


def test_sets_of_different_chains_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path / "a", SMALL, 3, 0)
    write_set(tmp_path / "b", {"band": SMALL["band"]}, 3, 0)
    with pytest.raises(ValueError, match="a and b are of different chains: only one has comp.attack, comp.avg_coef"):
        load_sets(tmp_path / "a", tmp_path / "b")
